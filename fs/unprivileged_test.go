package fs_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The user that the operations below are done by, a group of its own and one
// that it is in besides; and what is neither.
const (
	ordinary      = 65534
	supplementary = 777
	foreign       = 4242
)

// userMain becomes an ordinary user and does the operations in a directory,
// one line of answer for each.
func userMain() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	check(syscall.Setgroups([]int{supplementary}))
	check(syscall.Setresgid(ordinary, ordinary, ordinary))
	check(syscall.Setresuid(ordinary, ordinary, ordinary))
	unix.Umask(022)
	check(os.Chdir(os.Args[1]))
	for _, op := range userOps {
		fmt.Printf("%s: %s\n", op.name, errnoName(op.do()))
	}
}

func errnoName(err error) string {
	if err == nil {
		return "done"
	}
	if name := unix.ErrnoName(errnoOf(err)); name != "" {
		return name
	}
	return err.Error()
}

// userTree makes, as root, what the operations meet.
func userTree(t *testing.T, dir string) {
	t.Helper()
	mkdir := func(name string, mode uint32, uid, gid int) {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(p, 0o755))
		must(t, os.Chown(p, uid, gid))
		must(t, unix.Chmod(p, mode))
	}
	file := func(name string, mode uint32, uid, gid int) {
		p := filepath.Join(dir, name)
		must(t, os.WriteFile(p, make([]byte, 10_000), 0o600))
		must(t, os.Chown(p, uid, gid))
		must(t, unix.Chmod(p, mode))
	}
	mkdir("open", 0o777, 0, 0)
	mkdir("closed", 0o755, 0, 0)
	mkdir("hidden", 0o711, 0, 0)
	mkdir("none", 0o700, 0, 0)
	mkdir("sticky", 0o1777, 0, 0)
	mkdir("sticky/mine", 0o755, ordinary, ordinary)
	mkdir("mysticky", 0o1777, ordinary, ordinary)
	mkdir("sgid", 0o2777, 0, foreign)
	mkdir("sgidmine", 0o2777, 0, supplementary)
	mkdir("acl", 0o777, 0, 0)
	mkdir("acldenied", 0o777, 0, 0)
	for _, d := range []string{"closed", "hidden", "none", "sticky", "mysticky", "open"} {
		file(d+"/root", 0o666, 0, 0)
		file(d+"/stranger", 0o666, 12345, foreign)
		file(d+"/own", 0o644, ordinary, ordinary)
	}
	file("secret", 0o600, 0, 0)
	file("readable", 0o644, 0, 0)
	file("writable", 0o666, 0, 0)
	file("group", 0o660, 0, supplementary)
	file("suid", 0o6777, 0, 0)          // anybody may write
	file("suidtrunc", 0o6777, 0, 0)     //
	file("suidpunch", 0o6777, 0, 0)     //
	file("sgidnox", 0o2766, 0, foreign) // set-group-ID without execute
	file("ownsuid", 0o6755, ordinary, ordinary)
	file("ownsgid", 0o2755, ordinary, supplementary)
	file("ownchown", 0o6755, ordinary, ordinary)
	file("denied", 0o666, 0, 0)
	file("allowed", 0o600, 0, 0)
	run(t, dir, "setfacl", "-m", fmt.Sprintf("d:u:%d:rwx,d:g:%d:rx,d:o::---", ordinary, foreign), "acl")
	run(t, dir, "setfacl", "-m", fmt.Sprintf("u:%d:---", ordinary), "acldenied")
	run(t, dir, "setfacl", "-m", fmt.Sprintf("u:%d:---", ordinary), "denied")
	run(t, dir, "setfacl", "-m", fmt.Sprintf("u:%d:rw", ordinary), "allowed")
	must(t, unix.Setxattr(filepath.Join(dir, "readable"), "user.x", []byte("1"), 0))
	must(t, unix.Setxattr(filepath.Join(dir, "readable"), "trusted.x", []byte("1"), 0))
	must(t, unix.Setxattr(filepath.Join(dir, "secret"), "user.x", []byte("1"), 0))
}

type userOp struct {
	name string
	do   func() error
}

// opened opens a file, does something with it and closes it.
func opened(path string, flags int, do func(fd int) error) error {
	fd, err := unix.Open(path, flags, 0o666)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if do == nil {
		return nil
	}
	return do(fd)
}

func writeByte(fd int) error {
	_, err := unix.Pwrite(fd, []byte("x"), 0)
	return err
}

// userOps is what the ordinary user does, in this order.
var userOps = func() (ops []userOp) {
	add := func(name string, do func() error) { ops = append(ops, userOp{name, do}) }
	for _, p := range []string{"secret", "readable", "writable", "group", "denied", "allowed", "none/own", "hidden/own", "acldenied/x", "missing"} {
		for _, m := range []struct {
			name  string
			flags int
		}{{"read", unix.O_RDONLY}, {"write", unix.O_WRONLY}, {"both", unix.O_RDWR}, {"append", unix.O_WRONLY | unix.O_APPEND},
			{"truncating", unix.O_WRONLY | unix.O_TRUNC}, {"noatime", unix.O_RDONLY | unix.O_NOATIME}, {"creating", unix.O_RDWR | unix.O_CREAT},
			{"exclusive", unix.O_RDWR | unix.O_CREAT | unix.O_EXCL}} {
			add("open "+p+" "+m.name, func() error { return opened(p, m.flags, nil) })
		}
		add("stat "+p, func() error { var st unix.Stat_t; return unix.Stat(p, &st) })
		for _, mode := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
			add(fmt.Sprintf("access %s %d", p, mode), func() error { return unix.Access(p, mode) })
		}
		add("truncate "+p, func() error { return unix.Truncate(p, 5) })
		add("touch "+p, func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, nil, 0) })
		add("utimes "+p, func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 5}, {Sec: 6}}, 0) })
		add("chmod "+p, func() error { return unix.Chmod(p, 0o777) })
		add("chgrp "+p, func() error { return unix.Chown(p, -1, supplementary) })
		add("getxattr "+p, func() error { _, err := unix.Getxattr(p, "user.x", make([]byte, 10)); return err })
		for _, space := range []string{"user", "trusted", "security", "system", "nowhere"} {
			add("setxattr "+space+" "+p, func() error { return unix.Setxattr(p, space+".y", []byte("1"), 0) })
		}
		add("get trusted "+p, func() error { _, err := unix.Getxattr(p, "trusted.x", make([]byte, 10)); return err })
		add("remove trusted "+p, func() error { return unix.Removexattr(p, "trusted.x") })
		add("setacl "+p, func() error {
			return unix.Setxattr(p, "system.posix_acl_access", []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}, 0)
		})
	}
	for _, d := range []string{"closed", "hidden", "none", "sticky", "mysticky", "open"} {
		add("list "+d, func() error { _, err := os.ReadDir(d); return err })
		add("create in "+d, func() error { return opened(d+"/new", unix.O_WRONLY|unix.O_CREAT, nil) })
		add("mkdir in "+d, func() error { return unix.Mkdir(d+"/newdir", 0o777) })
		add("mkfifo in "+d, func() error { return unix.Mkfifo(d+"/fifo", 0o666) })
		add("mknod in "+d, func() error { return unix.Mknod(d+"/dev", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) })
		add("symlink in "+d, func() error { return unix.Symlink("root", d+"/link") })
		add("tmpfile in "+d, func() error { return opened(d, unix.O_TMPFILE|unix.O_WRONLY, nil) })
		for _, f := range []string{"root", "stranger", "own"} {
			p := d + "/" + f
			add("link "+p, func() error { return unix.Link(p, "open/"+d+f) })
			add("O_CREAT "+p, func() error { return opened(p, unix.O_WRONLY|unix.O_CREAT, writeByte) })
			add("rename within "+p, func() error { return unix.Rename(p, p+".moved") })
			add("rename back "+p, func() error { return unix.Rename(p+".moved", p) })
			add("exchange "+p, func() error { return unix.Renameat2(-100, p, -100, d+"/new", unix.RENAME_EXCHANGE) })
			add("rename over "+p, func() error { return unix.Rename(d+"/link", p) })
			add("unlink "+p, func() error { return unix.Unlink(p) })
		}
		add("rmdir "+d, func() error { return unix.Rmdir(d) })
		add("rename "+d, func() error { return unix.Rename(d, "open/moved"+d) })
	}
	add("move a directory out of a sticky one", func() error { return unix.Rename("sticky/mine", "open/mine") })

	// What takes set-user-ID and set-group-ID away.
	add("write suid", func() error { return opened("suid", unix.O_WRONLY, writeByte) })
	add("write sgid without execute", func() error { return opened("sgidnox", unix.O_WRONLY, writeByte) })
	add("truncate suid", func() error { return unix.Truncate("suidtrunc", 3) })
	add("punch suid", func() error {
		return opened("suidpunch", unix.O_WRONLY, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		})
	})
	add("write own suid", func() error { return opened("ownsuid", unix.O_WRONLY, writeByte) })
	add("write own sgid", func() error { return opened("ownsgid", unix.O_WRONLY, writeByte) })
	add("chgrp own suid", func() error { return unix.Chown("ownchown", -1, supplementary) })
	add("chown own away", func() error { return unix.Chown("ownchown", 12345, -1) })
	add("chgrp own to a foreign group", func() error { return unix.Chown("ownchown", -1, foreign) })
	add("chown own to itself", func() error { return unix.Chown("ownchown", ordinary, -1) })
	add("chmod sgid with a foreign group", func() error { return unix.Chmod("sgid", 0o2777) })

	// Inheritance of group and ACL.
	for _, d := range []string{"sgid", "sgidmine", "acl"} {
		add("create in "+d, func() error { return opened(d+"/f", unix.O_WRONLY|unix.O_CREAT, nil) })
		add("create executable in "+d, func() error {
			fd, err := unix.Open(d+"/x", unix.O_WRONLY|unix.O_CREAT, 0o2775)
			unix.Close(fd)
			return err
		})
		add("mkdir in "+d, func() error { return unix.Mkdir(d+"/d", 0o777) })
		add("create below "+d, func() error { return opened(d+"/d/f", unix.O_WRONLY|unix.O_CREAT, nil) })
		add("mknod in "+d, func() error { return unix.Mknod(d+"/s", unix.S_IFSOCK|0o777, 0) })
		add("chmod sgid in "+d, func() error { return unix.Chmod(d+"/f", 0o2755) })
		add("tmpfile and link in "+d, func() error {
			return opened(d, unix.O_TMPFILE|unix.O_WRONLY, func(fd int) error {
				return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/t", unix.AT_SYMLINK_FOLLOW)
			})
		})
	}
	add("xattr on a symbolic link", func() error { return unix.Lsetxattr("open/link", "user.x", []byte("1"), 0) })
	add("xattr on a sticky directory", func() error { return unix.Setxattr("sticky", "user.x", []byte("1"), 0) })
	add("xattr on its own sticky directory", func() error { return unix.Setxattr("mysticky", "user.x", []byte("1"), 0) })
	add("xattr on a fifo", func() error { return unix.Setxattr("open/fifo", "user.x", []byte("1"), 0) })
	return ops
}()

// userRun prepares a directory, has the operations done, and returns the answers
// followed by what is there afterwards.
func userRun(t *testing.T, dir string) []string {
	t.Helper()
	must(t, os.Chmod(dir, 0o755))
	userTree(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], dir)
	cmd.Env = append(os.Environ(), roleEnv+"=user")
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		size := st.Size
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			size = 0 // each file system's own
		}
		acl := ""
		for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
			b := make([]byte, 1024)
			if n, err := unix.Lgetxattr(p, name, b); err == nil {
				acl += fmt.Sprintf(" %x", b[:n])
			}
		}
		lines = append(lines, fmt.Sprintf("%s is %o %d:%d %d bytes %d links%s", rel, st.Mode, st.Uid, st.Gid, size, st.Nlink, acl))
		return nil
	}))
	return lines
}

// TestUnprivileged has an ordinary user do the same on a mount as on a plain
// directory, and compares every errno and what is there in the end.
func TestUnprivileged(t *testing.T) {
	plain := t.TempDir()
	must(t, os.Chmod(filepath.Dir(plain), 0o755))
	want := userRun(t, plain)
	if n := len(want); n < 400 || !slices.ContainsFunc(want, func(l string) bool { return strings.HasSuffix(l, ": EPERM") }) {
		t.Fatalf("%d lines on a plain directory", n)
	}
	for _, m := range modes {
		if !m.cfg.AllowOther {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			got := userRun(t, newRig(t, realVolume(t), m.cfg).dir)
			for i := range max(len(got), len(want)) {
				g, w := "nothing", "nothing"
				if i < len(got) {
					g = got[i]
				}
				if i < len(want) {
					w = want[i]
				}
				if g != w {
					t.Errorf("%s; a plain directory: %s", g, w)
				}
			}
		})
	}
}
