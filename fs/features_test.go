package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFeatures tries what Linux programs use beyond what posixtest looks at.
func TestFeatures(t *testing.T) {
	notControl := []string{"sparsefar"} // ext4's files are smaller
	if _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, t.TempDir(), 0); err == unix.EOPNOTSUPP {
		notControl = append(notControl, "handles") // a container's overlay has none
	}
	suite{
		"tmpfile":       testTmpfile,
		"unlinked":      testUnlinked,
		"rename":        testRename,
		"links":         testLinks,
		"openflags":     testOpenFlags,
		"exec":          testExec,
		"xattr":         testXattr,
		"acl":           testACL,
		"fallocate":     testFallocate,
		"copyrange":     testCopyRange,
		"bigdir":        testBigDir,
		"suid":          testSUID,
		"sgiddir":       testSGIDDir,
		"statfs":        testStatfs,
		"sync":          testSync,
		"locks":         testLocks,
		"times":         testTimes,
		"special":       testSpecial,
		"handles":       testHandles,
		"ioctl":         testIoctl,
		"longnames":     testLongNames,
		"permissions":   testPermissions,
		"mmap":          testMmap,
		"appendrace":    testAppendRace,
		"sparse":        testSparse,
		"negativecache": testNegativeCache,
		"locksbetween":  testLocksBetween,
		"churn":         testChurn,
		"sparsefar":     testSparseFar,
		"aio":           testAIO,
	}.run(t, notControl...)
}

func wantErrno(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	if errnoOf(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s: %.60q, %v; want %.60q", filepath.Base(path), b, err, want)
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st
}

// nobody runs a shell command as an unprivileged user.
func nobody(t *testing.T, dir, script string) (string, error) {
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func testTmpfile(t *testing.T, dir string) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0640)
	must(t, err)
	f := os.NewFile(uintptr(fd), "tmpfile")
	defer f.Close()
	_, err = f.WriteString("nameless")
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if st.Nlink != 0 || st.Size != 8 {
		t.Errorf("nlink %d, size %d", st.Nlink, st.Size)
	}
	must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/named", unix.AT_SYMLINK_FOLLOW))
	wantContent(t, dir+"/named", "nameless")
	if n := stat(t, dir+"/named").Nlink; n != 1 {
		t.Errorf("nlink %d after linkat", n)
	}
	// One that is never linked leaves nothing.
	fd2, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0600)
	must(t, err)
	unix.Close(fd2)
	if es, _ := os.ReadDir(dir); len(es) != 1 {
		t.Errorf("%d entries", len(es))
	}
}

func testUnlinked(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("still here")
	must(t, err)
	must(t, os.Remove(f.Name()))
	_, err = f.WriteAt([]byte("STILL"), 0)
	must(t, err)
	must(t, f.Truncate(8))
	must(t, f.Sync())
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "STILL he" {
		t.Errorf("%q, %v", b, err)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Nlink != 0 || st.Size != 8 {
		t.Errorf("nlink %d, size %d", st.Nlink, st.Size)
	}
	// A directory that is the working directory of somebody.
	must(t, os.Mkdir(dir+"/d", 0755))
	d, err := os.Open(dir + "/d")
	must(t, err)
	defer d.Close()
	must(t, os.Remove(dir+"/d"))
	names, err := d.Readdirnames(-1)
	if len(names) != 0 {
		t.Errorf("removed directory: %q", names)
	}
	wantErrno(t, "list a removed directory", err, syscall.ENOENT)
	wantErrno(t, "create in a removed directory", unix.Mknodat(int(d.Fd()), "x", unix.S_IFREG|0600, 0), syscall.ENOENT)
}

func testRename(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/a", []byte("a"), 0644))
	must(t, os.WriteFile(dir+"/b", []byte("b"), 0644))
	re := func(a, b string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, dir+"/"+a, unix.AT_FDCWD, dir+"/"+b, flags)
	}
	wantErrno(t, "NOREPLACE onto a file", re("a", "b", unix.RENAME_NOREPLACE), syscall.EEXIST)
	must(t, re("a", "b", unix.RENAME_EXCHANGE))
	wantContent(t, dir+"/a", "b")
	wantContent(t, dir+"/b", "a")
	wantErrno(t, "EXCHANGE with nothing", re("a", "c", unix.RENAME_EXCHANGE), syscall.ENOENT)
	must(t, os.MkdirAll(dir+"/d/e", 0755))
	wantErrno(t, "directory into itself", re("d", "d/e/f", 0), syscall.EINVAL)
	wantErrno(t, "file onto directory", re("a", "d", 0), syscall.EISDIR)
	wantErrno(t, "directory onto file", re("d", "a", 0), syscall.ENOTDIR)
	must(t, os.Mkdir(dir+"/g", 0755))
	wantErrno(t, "onto a directory that is not empty", re("g", "d", 0), syscall.ENOTEMPTY)
	must(t, re("a", "d", unix.RENAME_EXCHANGE))
	wantContent(t, dir+"/d", "b")
	must(t, re("a/e", "g/e", unix.RENAME_NOREPLACE))
	if n := stat(t, dir+"/g").Nlink; n != 3 {
		t.Errorf("nlink of g: %d", n)
	}
	if n := stat(t, dir+"/a").Nlink; n != 2 {
		t.Errorf("nlink of a: %d", n)
	}
	// ".." of a moved directory is its new parent.
	must(t, unix.Access(dir+"/g/e/../../d", unix.F_OK))
	must(t, re("b", "b", 0))
	wantContent(t, dir+"/b", "a")
}

func testLinks(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/a", []byte("x"), 0644))
	before := stat(t, dir+"/a")
	time.Sleep(20 * time.Millisecond) // more than a tick
	must(t, os.Link(dir+"/a", dir+"/b"))
	a, b := stat(t, dir+"/a"), stat(t, dir+"/b")
	if a.Nlink != 2 || b.Nlink != 2 || a.Ino != b.Ino {
		t.Errorf("nlink %d, %d; ino %d, %d", a.Nlink, b.Nlink, a.Ino, b.Ino)
	}
	if a.Ctim == before.Ctim {
		t.Error("link did not change ctime")
	}
	must(t, os.WriteFile(dir+"/b", []byte("through b"), 0644))
	wantContent(t, dir+"/a", "through b")
	must(t, os.Remove(dir+"/a"))
	if n := stat(t, dir+"/b").Nlink; n != 1 {
		t.Errorf("nlink %d", n)
	}
	must(t, os.Mkdir(dir+"/d", 0755))
	wantErrno(t, "link to a directory", os.Link(dir+"/d", dir+"/e"), syscall.EPERM)
	must(t, os.Symlink("b", dir+"/s"))
	must(t, os.Link(dir+"/s", dir+"/s2"))
	if s, err := os.Readlink(dir + "/s2"); err != nil || s != "b" {
		t.Errorf("%q, %v", s, err)
	}
}

func testOpenFlags(t *testing.T, dir string) {
	p := dir + "/f"
	must(t, os.WriteFile(p, []byte("0123456789"), 0644))
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	if stat(t, p).Size != 0 {
		t.Error("O_TRUNC did not truncate")
	}
	f.Close()
	_, err = os.OpenFile(p, os.O_CREATE|os.O_EXCL, 0644)
	wantErrno(t, "O_EXCL", err, syscall.EEXIST)
	_, err = os.OpenFile(dir, os.O_WRONLY, 0)
	wantErrno(t, "directory for writing", err, syscall.EISDIR)
	_, err = os.OpenFile(p+"/x", os.O_RDONLY, 0)
	wantErrno(t, "below a file", err, syscall.ENOTDIR)
	_, err = os.OpenFile(p, os.O_RDONLY|unix.O_DIRECTORY, 0)
	wantErrno(t, "O_DIRECTORY", err, syscall.ENOTDIR)
	// O_APPEND beside another writer.
	a, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer a.Close()
	must(t, os.WriteFile(p, []byte("abc"), 0644))
	a.WriteString("def")
	wantContent(t, p, "abcdef")
	// O_DIRECT and the page cache see the same data.
	d, err := os.OpenFile(p, os.O_RDWR|unix.O_DIRECT, 0)
	must(t, err)
	defer d.Close()
	page := alignedPage()
	copy(page, bytes.Repeat([]byte("d"), 4096))
	_, err = d.WriteAt(page, 0)
	must(t, err)
	wantContent(t, p, strings.Repeat("d", 4096))
	must(t, os.WriteFile(p, bytes.Repeat([]byte("e"), 4096), 0644))
	if _, err := d.ReadAt(page, 0); err != nil || page[0] != 'e' || page[4095] != 'e' {
		t.Errorf("O_DIRECT after a buffered write: %v %q", err, page[:3])
	}
	// O_SYNC and O_DSYNC.
	s, err := os.OpenFile(p, os.O_WRONLY|os.O_SYNC, 0)
	must(t, err)
	defer s.Close()
	_, err = s.WriteString("sync")
	must(t, err)
	// O_PATH and O_NOATIME.
	fd, err := unix.Open(p, unix.O_PATH, 0)
	must(t, err)
	unix.Close(fd)
	fd, err = unix.Open(p, unix.O_RDONLY|unix.O_NOATIME, 0)
	must(t, err)
	unix.Close(fd)
}

// alignedPage is a page as O_DIRECT wants it.
func alignedPage() []byte {
	m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return m
}

func testExec(t *testing.T, dir string) {
	b, err := os.ReadFile("/bin/sleep")
	must(t, err)
	must(t, os.WriteFile(dir+"/sleep", b, 0755))
	run(t, dir, dir+"/sleep", "0")
	must(t, os.WriteFile(dir+"/script", []byte("#!/bin/sh\necho $0\n"), 0755))
	if out := run(t, dir, dir+"/script"); out != dir+"/script\n" {
		t.Errorf("script says %q", out)
	}
	cmd := exec.Command(dir+"/sleep", "100")
	must(t, cmd.Start())
	_, err = os.OpenFile(dir+"/sleep", os.O_WRONLY, 0)
	wantErrno(t, "write to a running program", err, syscall.ETXTBSY)
	cmd.Process.Kill()
	cmd.Wait()
	must(t, os.Chmod(dir+"/sleep", 0644))
	err = exec.Command(dir+"/sleep", "0").Run()
	wantErrno(t, "run without x", err, syscall.EACCES)
}

func testXattr(t *testing.T, dir string) {
	p := dir + "/f"
	must(t, os.WriteFile(p, nil, 0644))
	for _, name := range []string{"user.a", "trusted.b", "security.c"} {
		must(t, unix.Setxattr(p, name, []byte("value of "+name), 0))
		b := make([]byte, 100)
		n, err := unix.Getxattr(p, name, b)
		if err != nil || string(b[:n]) != "value of "+name {
			t.Errorf("%s: %q, %v", name, b[:max(n, 0)], err)
		}
	}
	b := make([]byte, 1000)
	n, err := unix.Listxattr(p, b)
	must(t, err)
	for _, name := range []string{"user.a", "trusted.b", "security.c"} {
		if !bytes.Contains(b[:n], []byte(name+"\x00")) {
			t.Errorf("%s is not in %q", name, b[:n])
		}
	}
	_, err = unix.Getxattr(p, "user.a", make([]byte, 3))
	wantErrno(t, "short buffer", err, syscall.ERANGE)
	_, err = unix.Listxattr(p, make([]byte, 3))
	wantErrno(t, "short buffer for the list", err, syscall.ERANGE)
	wantErrno(t, "XATTR_CREATE", unix.Setxattr(p, "user.a", nil, unix.XATTR_CREATE), syscall.EEXIST)
	wantErrno(t, "XATTR_REPLACE", unix.Setxattr(p, "user.n", nil, unix.XATTR_REPLACE), syscall.ENODATA)
	wantErrno(t, "unknown namespace", unix.Setxattr(p, "other.a", nil, 0), syscall.EOPNOTSUPP)
	must(t, unix.Setxattr(p, "user.empty", nil, 0))
	if n, err := unix.Getxattr(p, "user.empty", b); err != nil || n != 0 {
		t.Errorf("empty value: %d, %v", n, err)
	}
	must(t, unix.Removexattr(p, "user.a"))
	_, err = unix.Getxattr(p, "user.a", b)
	wantErrno(t, "removed", err, syscall.ENODATA)
	wantErrno(t, "remove twice", unix.Removexattr(p, "user.a"), syscall.ENODATA)
	// trusted ones are hidden from others.
	out, _ := nobody(t, dir, "getfattr -d -m - f 2>&1")
	if strings.Contains(out, "trusted") {
		t.Errorf("nobody sees %q", out)
	}
}

func testACL(t *testing.T, dir string) {
	must(t, os.Mkdir(dir+"/d", 0750))
	acl := func(name string) string { return run(t, dir, "getfacl", "-cpn", name) }
	run(t, dir, "setfacl", "-m", "u:65534:rx,g:100:rwx,d:u:65534:rwx,d:o::---", "d")
	if got, want := acl("d"), "user::rwx\nuser:65534:r-x\ngroup::r-x\ngroup:100:rwx\nmask::rwx\nother::---\n"+
		"default:user::rwx\ndefault:user:65534:rwx\ndefault:group::r-x\ndefault:mask::rwx\ndefault:other::---\n\n"; got != want {
		t.Errorf("directory:\n%s", got)
	}
	if m := stat(t, dir+"/d").Mode & 0777; m != 0770 {
		t.Errorf("mode %o, want the mask in the group's bits", m)
	}
	defer unix.Umask(unix.Umask(022))
	must(t, os.WriteFile(dir+"/d/f", []byte("secret"), 0666))
	if got, want := acl("d/f"), "user::rw-\nuser:65534:rwx\t#effective:rw-\ngroup::r-x\t#effective:r--\nmask::rw-\nother::---\n\n"; strings.ReplaceAll(got, "\t\t", "\t") != want {
		t.Errorf("inherited by a file:\n%s", got)
	}
	must(t, os.Mkdir(dir+"/d/sub", 0777))
	if got := acl("d/sub"); !strings.Contains(got, "user:65534:rwx") || !strings.Contains(got, "default:user:65534:rwx") {
		t.Errorf("inherited by a directory:\n%s", got)
	}
	if out, err := nobody(t, dir, "cat d/f"); err != nil || out != "secret" {
		t.Errorf("nobody, allowed: %q, %v", out, err)
	}
	must(t, os.Chmod(dir+"/d/f", 0600)) // the mask goes
	if got := acl("d/f"); !strings.Contains(got, "mask::---") {
		t.Errorf("after chmod:\n%s", got)
	}
	if out, err := nobody(t, dir, "cat d/f"); err == nil {
		t.Errorf("nobody, masked: %q", out)
	}
	run(t, dir, "setfacl", "-b", "d/f")
	if got := acl("d/f"); got != "user::rw-\ngroup::---\nother::---\n\n" && got != "user::rw-\ngroup::r-x\nother::---\n\n" {
		t.Errorf("after -b:\n%s", got)
	}
}

func testFallocate(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	fd := int(f.Fd())
	must(t, unix.Fallocate(fd, 0, 0, 100_000))
	if st := stat(t, f.Name()); st.Size != 100_000 {
		t.Errorf("size %d", st.Size)
	}
	data := bytes.Repeat([]byte("x"), 100_000)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 200_000))
	if st := stat(t, f.Name()); st.Size != 100_000 {
		t.Errorf("size %d after KEEP_SIZE", st.Size)
	}
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10_000, 50_000))
	clear(data[10_000:60_000])
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 70_000, 1000))
	clear(data[70_000:71_000])
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	must(t, f.Sync())
	hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
	if err != nil || hole < 10_000 || hole > 12_288 {
		t.Errorf("SEEK_HOLE: %d, %v", hole, err)
	}
	next, err := unix.Seek(fd, hole, unix.SEEK_DATA)
	if err != nil || next < 57_344 || next > 60_000 {
		t.Errorf("SEEK_DATA: %d, %v", next, err)
	}
	_, err = unix.Seek(fd, 100_000, unix.SEEK_DATA)
	wantErrno(t, "SEEK_DATA at the end", err, syscall.ENXIO)
	wantErrno(t, "COLLAPSE beyond the end", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 1<<40), errnoOf(unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 1<<40)))
}

func testSparse(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	const far = 8 << 40
	_, err = f.WriteAt([]byte("end"), far)
	must(t, err)
	must(t, f.Sync())
	st := stat(t, f.Name())
	if st.Size != far+3 || st.Blocks > 1000 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
	b := make([]byte, 10)
	if n, err := f.ReadAt(b, far-5); n != 8 || string(b[:8]) != "\x00\x00\x00\x00\x00end" {
		t.Errorf("%q, %v", b[:n], err)
	}
	must(t, f.Truncate(5))
	must(t, f.Truncate(4096))
	if b, _ := os.ReadFile(f.Name()); !bytes.Equal(b, make([]byte, 4096)) {
		t.Error("not zero after shrinking and growing")
	}
}

func testCopyRange(t *testing.T, dir string) {
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 8)
	}
	must(t, os.WriteFile(dir+"/src", data, 0644))
	src, err := os.Open(dir + "/src")
	must(t, err)
	defer src.Close()
	dst, err := os.Create(dir + "/dst")
	must(t, err)
	defer dst.Close()
	for off := int64(0); off < int64(len(data)); {
		in, out := off, off
		n, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, len(data)-int(off), 0)
		if err != nil || n == 0 {
			t.Fatalf("at %d: %d, %v", off, n, err)
		}
		off += int64(n)
	}
	if got, err := os.ReadFile(dir + "/dst"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("copy differs: %v", err)
	}
	// A change to one does not show in the other.
	_, err = dst.WriteAt([]byte("changed"), 5000)
	must(t, err)
	if got, _ := os.ReadFile(dir + "/src"); !bytes.Equal(got, data) {
		t.Error("the source changed with the copy")
	}
	in, out := int64(100), int64(50_001)
	n, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, 10_000, 0)
	if err != nil || n != 10_000 {
		t.Fatalf("unaligned: %d, %v", n, err)
	}
	copy(data[50_001:60_001], append([]byte(nil), data[100:10_100]...))
	copy(data[5000:], "changed")
	if got, _ := os.ReadFile(dir + "/dst"); !bytes.Equal(got, data) {
		t.Error("unaligned copy differs")
	}
}

func testBigDir(t *testing.T, dir string) {
	const n = 3000
	for i := range n {
		must(t, os.WriteFile(fmt.Sprintf("%s/file with a longish name %d", dir, i), nil, 0644))
	}
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	seen := map[string]int{}
	// While it is listed, what was listed is removed.
	for {
		names, err := d.Readdirnames(100)
		for _, name := range names {
			seen[name]++
			if len(seen)%2 == 0 {
				must(t, os.Remove(dir+"/"+name))
			}
		}
		if err != nil {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("%d names seen, want %d", len(seen), n)
	}
	for name, times := range seen {
		if times != 1 {
			t.Errorf("%q seen %d times", name, times)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != n/2 {
		t.Errorf("%d left, %v", len(left), err)
	}
	run(t, dir, "sh", "-c", "rm -- *")
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d left", len(left))
	}
}

func testSUID(t *testing.T, dir string) {
	p := dir + "/f"
	for _, c := range []struct{ what, script string }{
		{"write", "echo x >>f"},
		{"truncate by open", ": >f"},
		{"truncate", "truncate -s 1 f"},
		{"fallocate", "fallocate -l 10000 f"},
		{"punch", "fallocate -p -l 4096 f"},
	} {
		must(t, os.WriteFile(p, []byte("abc"), 0777))
		must(t, os.Chmod(p, 0777|os.ModeSetuid|os.ModeSetgid))
		if m := stat(t, p).Mode & 07777; m != 06777 {
			t.Fatalf("mode %o", m)
		}
		if out, err := nobody(t, dir, c.script); err != nil {
			t.Fatalf("%s: %v %s", c.what, err, out)
		}
		if m := stat(t, p).Mode & 07777; m != 0777 {
			t.Errorf("mode %o after %s", m, c.what)
		}
	}
	must(t, os.Chmod(p, 0777|os.ModeSetuid|os.ModeSetgid))
	must(t, os.Chown(p, 1, 1))
	if m := stat(t, p).Mode & 07777; m != 0777 {
		t.Errorf("mode %o after chown", m)
	}
	// The kernel keeps the mode apart from size and times.
	must(t, os.Chmod(p, 0666|os.ModeSetuid|os.ModeSetgid))
	if out, err := nobody(t, dir, "fallocate -l 20000 f && stat -c %a f"); err != nil || out != "666\n" {
		t.Errorf("mode %q after fallocate, %v", out, err)
	}
	// An O_DIRECT write, too.
	must(t, os.Chmod(p, 0777|os.ModeSetuid))
	if out, err := nobody(t, dir, "dd if=/dev/zero of=f bs=4096 count=1 oflag=direct conv=notrunc status=none && stat -c %a f"); err != nil || out != "777\n" {
		t.Errorf("mode %q after an O_DIRECT write, %v", out, err)
	}
	must(t, os.Chmod(p, 0777|os.ModeSetuid))
	run(t, dir, "fallocate", "-l", "30000", "f")
	if m := stat(t, p).Mode & 07777; m != 04777 {
		t.Errorf("mode %o after root's fallocate", m)
	}
	// Mandatory-locking set-group-ID stays.
	must(t, os.Chmod(p, 0666|os.ModeSetgid))
	must(t, os.Chown(p, 2, 2))
	if m := stat(t, p).Mode & 07777; m != 02666 {
		t.Errorf("mode %o, set-group-ID without x", m)
	}
	// Of a pipe, too.
	must(t, unix.Mkfifo(dir+"/fifo", 0777))
	must(t, os.Chmod(dir+"/fifo", 0777|os.ModeSetuid|os.ModeSetgid))
	must(t, os.Chown(dir+"/fifo", 1, 1))
	if m := stat(t, dir+"/fifo").Mode & 07777; m != 0777 {
		t.Errorf("mode %o of a pipe after chown", m)
	}
	// Root's own write leaves them.
	must(t, os.Chmod(p, 0777|os.ModeSetuid))
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	must(t, err)
	f.WriteString("root")
	f.Close()
	if m := stat(t, p).Mode & 07777; m != 04777 {
		t.Errorf("mode %o after root wrote", m)
	}
}

func testSGIDDir(t *testing.T, dir string) {
	must(t, os.Mkdir(dir+"/d", 0777))
	must(t, os.Chown(dir+"/d", 0, 100))
	must(t, os.Chmod(dir+"/d", 0777|os.ModeSetgid))
	must(t, os.WriteFile(dir+"/d/f", nil, 0644))
	must(t, os.Mkdir(dir+"/d/sub", 0755))
	if st := stat(t, dir+"/d/f"); st.Gid != 100 {
		t.Errorf("gid of a file %d", st.Gid)
	}
	if st := stat(t, dir+"/d/sub"); st.Gid != 100 || st.Mode&unix.S_ISGID == 0 {
		t.Errorf("directory: gid %d, mode %o", st.Gid, st.Mode)
	}
	must(t, os.Chown(dir+"/d", 1, 100))
	if m := stat(t, dir+"/d").Mode & 07777; m != 02777 {
		t.Errorf("mode %o of a directory after chown", m)
	}
}

func testStatfs(t *testing.T, dir string) {
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if st.Blocks == 0 || st.Bavail == 0 || st.Bfree > st.Blocks || st.Namelen != 255 || st.Files == 0 {
		t.Errorf("%+v", st)
	}
}

func testSync(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	f.WriteString("x")
	must(t, f.Sync())
	must(t, unix.Fdatasync(int(f.Fd())))
	must(t, unix.Syncfs(int(f.Fd())))
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	must(t, d.Sync())
}

func testLocks(t *testing.T, dir string) {
	p := dir + "/f"
	f, err := os.Create(p)
	must(t, err)
	defer f.Close()
	try := func(kind string) bool { // in another process
		return exec.Command("flock", map[string][]string{
			"flock": {"-n", p, "true"},
			"fcntl": {"--fcntl", "-n", p, "true"},
		}[kind]...).Run() == nil
	}
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	if try("flock") {
		t.Error("flock by another process succeeds")
	}
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_UN))
	if !try("flock") {
		t.Error("flock fails after unlocking")
	}
	// POSIX and OFD locks, between descriptors.
	lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 10}
	must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk))
	g, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer g.Close()
	lk = unix.Flock_t{Type: unix.F_WRLCK, Start: 5, Len: 10}
	err = unix.FcntlFlock(g.Fd(), unix.F_SETLK, &lk)
	if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) {
		t.Errorf("overlapping lock: %v", err)
	}
	lk = unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
	must(t, unix.FcntlFlock(g.Fd(), unix.F_SETLK, &lk))
}

func testTimes(t *testing.T, dir string) {
	p := dir + "/f"
	must(t, os.WriteFile(p, []byte("x"), 0644))
	at, mt := time.Unix(1_000_000_000, 123_456_789), time.Unix(5_000_000_000, 1)
	must(t, os.Chtimes(p, at, mt))
	st := stat(t, p)
	if st.Atim.Sec != at.Unix() || st.Atim.Nsec != 123_456_789 || st.Mtim.Sec != mt.Unix() || st.Mtim.Nsec != 1 {
		t.Errorf("times %+v %+v", st.Atim, st.Mtim)
	}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0))
	st = stat(t, p)
	if st.Atim.Sec != at.Unix() || time.Since(time.Unix(st.Mtim.Unix())).Abs() > time.Minute {
		t.Errorf("UTIME_NOW: %+v %+v", st.Atim, st.Mtim)
	}
	var sx unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, p, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &sx))
	if sx.Mask&unix.STATX_BTIME == 0 || time.Since(time.Unix(sx.Btime.Sec, 0)).Abs() > time.Minute {
		t.Errorf("btime %+v, mask %x", sx.Btime, sx.Mask)
	}
	// A write moves mtime on, a chmod only ctime.
	must(t, os.Chtimes(p, at, mt))
	must(t, os.Chmod(p, 0600))
	if st := stat(t, p); st.Mtim.Sec != mt.Unix() {
		t.Error("chmod changed mtime")
	}
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	must(t, err)
	f.WriteString("y")
	f.Close()
	if st := stat(t, p); st.Mtim.Sec == mt.Unix() {
		t.Error("write left mtime")
	}
	// Making a name moves the directory's on.
	old := stat(t, dir).Mtim
	must(t, os.WriteFile(dir+"/g", nil, 0644))
	if stat(t, dir).Mtim == old {
		t.Error("a new name left the directory's mtime")
	}
}

func testSpecial(t *testing.T, dir string) {
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "sock": unix.S_IFSOCK, "chr": unix.S_IFCHR, "blk": unix.S_IFBLK} {
		dev := 0
		if mode == unix.S_IFCHR || mode == unix.S_IFBLK {
			dev = int(unix.Mkdev(1, 300))
		}
		must(t, unix.Mknod(dir+"/"+name, mode|0640, dev))
		if st := stat(t, dir+"/"+name); st.Mode != mode|0640 || st.Rdev != uint64(dev) {
			t.Errorf("%s: mode %o, rdev %x", name, st.Mode, st.Rdev)
		}
	}
	must(t, unix.Mknod(dir+"/null", unix.S_IFCHR|0666, int(unix.Mkdev(1, 3))))
	must(t, os.WriteFile(dir+"/null", []byte("gone"), 0))
	// A pipe through the file system.
	done := make(chan string)
	go func() {
		b, _ := os.ReadFile(dir + "/fifo")
		done <- string(b)
	}()
	must(t, os.WriteFile(dir+"/fifo", []byte("through"), 0))
	if s := <-done; s != "through" {
		t.Errorf("%q", s)
	}
}

func testHandles(t *testing.T, dir string) {
	must(t, os.MkdirAll(dir+"/a/b", 0755))
	must(t, os.WriteFile(dir+"/a/b/f", []byte("by handle"), 0644))
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir+"/a/b/f", 0)
	must(t, err)
	hd, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir+"/a/b", 0)
	must(t, err)
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(root)
	os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
	fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY)
	must(t, err)
	b := make([]byte, 20)
	n, err := unix.Pread(fd, b, 0)
	if err != nil || string(b[:n]) != "by handle" {
		t.Errorf("%q, %v", b[:max(n, 0)], err)
	}
	unix.Close(fd)
	fd, err = unix.OpenByHandleAt(root, hd, unix.O_RDONLY|unix.O_DIRECTORY)
	must(t, err)
	must(t, unix.Faccessat(fd, "../b/f", unix.R_OK, 0))
	unix.Close(fd)
	must(t, os.Remove(dir+"/a/b/f"))
	os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
	fd, err = unix.OpenByHandleAt(root, h, unix.O_RDONLY)
	if err == nil {
		unix.Close(fd)
	}
	wantErrno(t, "handle of a removed file", err, syscall.ESTALE)
}

func testIoctl(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x1234, 0)
	if e != syscall.ENOTTY {
		t.Errorf("unknown ioctl: %v", e)
	}
}

func testLongNames(t *testing.T, dir string) {
	long := strings.Repeat("n", 255)
	must(t, os.WriteFile(dir+"/"+long, []byte("x"), 0644))
	wantContent(t, dir+"/"+long, "x")
	wantErrno(t, "256 bytes", os.WriteFile(dir+"/"+long+"n", nil, 0644), syscall.ENAMETOOLONG)
	odd := "\xff\x01 \\ \n\tü"
	must(t, os.WriteFile(dir+"/"+odd, []byte("y"), 0644))
	es, err := os.ReadDir(dir)
	must(t, err)
	if len(es) != 2 {
		t.Errorf("%d entries", len(es))
	}
	wantContent(t, dir+"/"+odd, "y")
	target := strings.Repeat("t", 4095)
	must(t, os.Symlink(target, dir+"/s"))
	if s, err := os.Readlink(dir + "/s"); err != nil || s != target {
		t.Errorf("%d bytes, %v", len(s), err)
	}
}

func testPermissions(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/private", []byte("x"), 0600))
	must(t, os.Mkdir(dir+"/closed", 0700))
	must(t, os.Mkdir(dir+"/sticky", 0777))
	must(t, os.Chmod(dir+"/sticky", 0777|os.ModeSticky))
	must(t, os.WriteFile(dir+"/sticky/mine", nil, 0666))
	for _, script := range []string{"cat private", "ls closed", "touch new", "rm -f sticky/mine && test ! -e sticky/mine", "chmod 777 private", "chown nobody private"} {
		if out, err := nobody(t, dir, script); err == nil {
			t.Errorf("nobody could %q: %s", script, out)
		}
	}
	if out, err := nobody(t, dir, "touch sticky/own && rm sticky/own"); err != nil {
		t.Errorf("nobody in a sticky directory: %v %s", err, out)
	}
}

func testMmap(t *testing.T, dir string) {
	p := dir + "/f"
	must(t, os.WriteFile(p, bytes.Repeat([]byte{1}, 20_000), 0644))
	m := startMapper(t, p)
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m.say(t, "shared 5000", "1")
	_, err = f.WriteAt([]byte{2}, 5000)
	must(t, err)
	m.say(t, "shared 5000", "2")
	m.say(t, "private 5000", "2")
	m.say(t, "dirty 9000 3", "ok")
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 9000); err != nil || b[0] != 3 {
		t.Errorf("read after a write to the mapping: %v, %v", b, err)
	}
	m.say(t, "msync", "ok")
	must(t, f.Truncate(4096))
	m.say(t, "shared 9000", "SIGBUS")
	must(t, f.Truncate(20_000))
	m.say(t, "shared 9000", "0")
}

func testAppendRace(t *testing.T, dir string) {
	p := dir + "/log"
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0644)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for range 200 {
				f.WriteString("a line of text\n")
			}
		})
	}
	wg.Wait()
	wantContent(t, p, strings.Repeat("a line of text\n", 800))
}

func testNegativeCache(t *testing.T, dir string) {
	for range 3 {
		_, err := os.Stat(dir + "/f")
		wantErrno(t, "missing", err, syscall.ENOENT)
		must(t, os.WriteFile(dir+"/f", nil, 0644))
		stat(t, dir+"/f")
		must(t, os.Rename(dir+"/f", dir+"/g"))
		_, err = os.Stat(dir + "/f")
		wantErrno(t, "moved", err, syscall.ENOENT)
		must(t, os.Link(dir+"/g", dir+"/f"))
		stat(t, dir+"/f")
		must(t, os.Remove(dir+"/f"))
		must(t, os.Remove(dir+"/g"))
	}
}
