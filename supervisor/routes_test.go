package supervisor_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// routeCanary is what can be read while access is granted, and never after it.
const routeCanary = "canary-of-the-routes"

const routeSize = 1 << 20

// route is one way to something of the volume. try returns what it got; it is
// prepared, with descriptors and mappings, while access is granted.
type route struct {
	name string
	try  func() ([]byte, error)
}

// prepareRoutes opens every way to the volume there is.
func prepareRoutes(t *testing.T, r *rig) []route {
	t.Helper()
	content := bytes.Repeat([]byte(routeCanary+"\n"), routeSize/len(routeCanary))[:routeSize]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := r.path("file")
	must(os.WriteFile(path, content, 0o600))
	must(os.WriteFile(r.path("copy"), nil, 0o600))
	must(os.Symlink(routeCanary, r.path("link")))
	must(os.MkdirAll(r.path("dir/"+routeCanary), 0o700))
	must(unix.Setxattr(path, "user.canary", []byte(routeCanary), 0))
	must(unix.Setxattr(path, "system.posix_acl_access", aclOfUser(4711), 0))

	open := func(path string, flags int) *os.File {
		t.Helper()
		f, err := os.OpenFile(path, flags, 0)
		must(err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	f, direct, dir := open(path, os.O_RDWR), open(path, os.O_RDONLY|unix.O_DIRECT), open(r.path("dir"), os.O_RDONLY)
	target, root := open(r.path("copy"), os.O_RDWR), open(r.mount, os.O_RDONLY)
	fd := int(f.Fd())
	mapping := func(flags int) []byte {
		t.Helper()
		m, err := unix.Mmap(fd, 0, routeSize, unix.PROT_READ, flags)
		must(err)
		t.Cleanup(func() { _ = unix.Munmap(m) })
		return m
	}
	shared, private, locked := mapping(unix.MAP_SHARED|unix.MAP_POPULATE), mapping(unix.MAP_PRIVATE|unix.MAP_POPULATE), mapping(unix.MAP_SHARED)
	must(unix.Mlock(locked))
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	must(err)
	program, running := runFromMount(t, r)

	mapped := func(m []byte) func() ([]byte, error) {
		return func() ([]byte, error) {
			b := make([]byte, 100)
			if faults(func() { copy(b, m[8192:]) }) {
				return nil, unix.EFAULT
			}
			return b, nil
		}
	}
	pread := func(f *os.File) func() ([]byte, error) {
		return func() ([]byte, error) {
			b := aligned(4096)
			n, err := unix.Pread(int(f.Fd()), b, 4096)
			return b[:max(0, n)], err
		}
	}
	reopened := func(open func() (int, error)) func() ([]byte, error) {
		return func() ([]byte, error) {
			fd, err := open()
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), "reopened")
			defer f.Close()
			return pread(f)()
		}
	}
	attributes := func(size int64, err error) ([]byte, error) {
		switch {
		case err != nil:
			return nil, err
		case size != routeSize:
			return nil, fmt.Errorf("size %d", size)
		}
		return []byte(routeCanary), nil
	}
	buffer := func(n int, b []byte, err error) ([]byte, error) { return b[:max(0, n)], err }
	return []route{
		{"pread", pread(f)},
		{"O_DIRECT", pread(direct)},
		{"mapping, shared", mapped(shared)},
		{"mapping, private", mapped(private)},
		{"mapping, mlocked", mapped(locked)},
		{"new mapping of an open file", func() ([]byte, error) {
			m, err := unix.Mmap(fd, 0, routeSize, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return nil, err
			}
			defer unix.Munmap(m)
			return mapped(m)()
		}},
		{"memory of a program that maps it", func() ([]byte, error) {
			b := make([]byte, 100)
			local := []unix.Iovec{{Base: &b[0], Len: 100}}
			n, err := unix.ProcessVMReadv(os.Getpid(), local, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&shared[0])), Len: 100}}, 0)
			return buffer(n, b, err)
		}},
		{"exec", func() ([]byte, error) {
			out, err := exec.Command(program, routeCanary).Output()
			return out, err
		}},
		{"text of a running program", running},
		{"open by path", func() ([]byte, error) { return os.ReadFile(path) }},
		{"open through /proc", reopened(func() (int, error) { return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY, 0) })},
		{"open by handle", reopened(func() (int, error) { return unix.OpenByHandleAt(int(root.Fd()), handle, unix.O_RDONLY) })},
		{"fstat", func() ([]byte, error) {
			var st unix.Stat_t
			err := unix.Fstat(fd, &st)
			return attributes(st.Size, err)
		}},
		{"stat", func() ([]byte, error) {
			var st unix.Stat_t
			err := unix.Stat(path, &st)
			return attributes(st.Size, err)
		}},
		{"lseek", func() ([]byte, error) { return attributes(unix.Seek(fd, 0, unix.SEEK_END)) }},
		{"access", func() ([]byte, error) { return attributes(routeSize, unix.Access(path, unix.R_OK)) }},
		{"readlink", func() ([]byte, error) {
			s, err := os.Readlink(r.path("link"))
			return []byte(s), err
		}},
		{"readdir", func() ([]byte, error) {
			if _, err := dir.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
			names, err := dir.Readdirnames(-1)
			return []byte(strings.Join(names, " ")), err
		}},
		{"readdir by path", func() ([]byte, error) {
			es, err := os.ReadDir(r.path("dir"))
			return fmt.Append(nil, es), err
		}},
		{"xattr", func() ([]byte, error) {
			b := make([]byte, 100)
			n, err := unix.Fgetxattr(fd, "user.canary", b)
			return buffer(n, b, err)
		}},
		{"names of xattrs", func() ([]byte, error) {
			b := make([]byte, 1000)
			n, err := unix.Flistxattr(fd, b)
			return bytes.ReplaceAll(b[:max(0, n)], []byte("user.canary"), []byte(routeCanary)), err
		}},
		{"ACL", func() ([]byte, error) {
			b := make([]byte, 100)
			n, err := unix.Fgetxattr(fd, "system.posix_acl_access", b)
			if err == nil && bytes.Equal(b[:n], aclOfUser(4711)) {
				return []byte(routeCanary), nil
			}
			return nil, err
		}},
		{"copy_file_range", func() ([]byte, error) {
			var from, to int64
			n, err := unix.CopyFileRange(fd, &from, int(target.Fd()), &to, 4096, 0)
			if err == nil && n == 4096 {
				return []byte(routeCanary), nil
			}
			return nil, err
		}},
		{"splice", throughPipe(func(w int) error {
			var off int64
			_, err := unix.Splice(fd, &off, w, nil, 4096, 0)
			return err
		})},
		{"sendfile", throughPipe(func(w int) error {
			var off int64
			_, err := unix.Sendfile(w, fd, &off, 4096)
			return err
		})},
	}
}

// throughPipe returns what send puts into a pipe.
func throughPipe(send func(w int) error) func() ([]byte, error) {
	return func() ([]byte, error) {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return nil, err
		}
		defer unix.Close(p[0])
		defer unix.Close(p[1])
		sendErr := send(p[1])
		b := make([]byte, 4096)
		n, _ := unix.Read(p[0], b)
		return b[:max(0, n)], sendErr
	}
}

// runFromMount copies programs to the mount. It returns one that prints its
// argument, and reads the text of another one, which runs.
func runFromMount(t *testing.T, r *rig) (program string, text func() ([]byte, error)) {
	t.Helper()
	for name, from := range map[string]string{"echo": "/bin/echo", "sleep": "/bin/sleep"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.path(name), b, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(r.path("sleep"), "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pid := cmd.Process.Pid
	var at int64
	// Not before it sleeps: until then it needs its text.
	eventually(t, "the program sleeps", func() bool {
		call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		if !bytes.HasPrefix(call, fmt.Appendf(nil, "%d ", unix.SYS_CLOCK_NANOSLEEP)) {
			return false
		}
		maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		for line := range strings.Lines(string(maps)) {
			if strings.HasSuffix(strings.TrimSpace(line), r.path("sleep")) {
				_, err := fmt.Sscanf(line, "%x-", &at)
				return err == nil
			}
		}
		return false
	})
	return r.path("echo"), func() ([]byte, error) {
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return nil, err
		}
		defer mem.Close()
		b := make([]byte, 4)
		if _, err := mem.ReadAt(b, at); err != nil {
			return nil, err
		}
		return bytes.ReplaceAll(b, []byte("\x7fELF"), []byte(routeCanary)), nil
	}
}

// aclOfUser is an ACL that lets one more user read.
func aclOfUser(uid uint32) []byte {
	const none = ^uint32(0)
	b := binary.LittleEndian.AppendUint32(nil, 2) // version
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 6, none}, {0x02, 4, uid}, {0x04, 0, none}, {0x10, 4, none}, {0x20, 0, none}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// aligned returns memory for direct reads.
func aligned(size int) []byte {
	b := make([]byte, size+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[skip : skip+size]
}

// checkRoutes tries all routes and wants every one open, or every one closed.
func checkRoutes(t *testing.T, when string, routes []route, open bool) {
	t.Helper()
	for _, way := range routes {
		got, err := way.try()
		readable := bytes.Contains(got, []byte(routeCanary))
		switch {
		case open && (err != nil || !readable):
			t.Errorf("%s: %s: %q %v", when, way.name, got[:min(len(got), 40)], err)
		case !open && (err == nil || readable):
			t.Errorf("%s: %s is still open: %q %v", when, way.name, got[:min(len(got), 40)], err)
		}
	}
}

// TestRoutes_Suspended: after the stop nothing can be read by any route, and the
// same routes are open again after the restore.
func TestRoutes_Suspended(t *testing.T) {
	for _, options := range [][]string{nil, {"writeback"}} {
		t.Run(strings.Join(append([]string{"options"}, options...), "-"), func(t *testing.T) {
			r := newRig(t, options...)
			routes := prepareRoutes(t, r)
			if len(options) > 0 {
				// The kernel itself decides about the sizes of open files then.
				routes = slices.DeleteFunc(routes, func(way route) bool { return way.name == "lseek" })
			}
			f, err := os.OpenFile(r.path("file"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for range 3 {
				checkRoutes(t, "before", routes, true)
				if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
					t.Fatal(err)
				}
				// Before anybody asks: then pages are made, and stay empty.
				if n := cachedPages(t, f); n != 0 {
					t.Errorf("%d pages are cached", n)
				}
				checkRoutes(t, "suspended", routes, false)
				if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
					t.Fatal(err)
				}
			}
			checkRoutes(t, "restored", routes, true)
		})
	}
}

// cachedPages returns how many pages of an open file the kernel holds.
func cachedPages(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &st, 0); err != nil {
		t.Fatal(err)
	}
	return st.Cache
}

// TestRoutes_WorkerKilledWhileTheKeyIsAway: nothing depends on the worker's help.
func TestRoutes_WorkerKilledWhileTheKeyIsAway(t *testing.T) {
	r := newRig(t)
	quickChecks(r, account.RecoveryManual)
	routes := prepareRoutes(t, r)
	checkRoutes(t, "before", routes, true)
	key := filepath.Join(r.dir, "platform.key")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	_ = unix.Kill(r.volume().WorkerPID, unix.SIGKILL) // it may have been suspended by now
	eventually(t, "the account is suspended", func() bool { return r.account().State == "suspended" })
	checkRoutes(t, "without the key", routes, false)
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RestoreAccount(r.ctx, "acct"); err != nil {
		t.Fatal(err)
	}
	if v := r.volume(); v.State != api.VolumeOnline {
		t.Fatalf("%+v", v)
	}
	checkRoutes(t, "restored", routes, true)
}

// TestRoutes_SupervisorKilled, and its worker with it: only the keeper is left.
func TestRoutes_SupervisorKilled(t *testing.T) {
	for name, both := range map[string]bool{"supervisor": false, "supervisor and worker": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			routes := prepareRoutes(t, r)
			checkRoutes(t, "before", routes, true)
			keeper, pid := r.keeper(), r.volume().WorkerPID
			if both { // so that the worker empties no cache, and none takes its place
				if err := errors.Join(unix.Kill(r.cmd.Process.Pid, unix.SIGSTOP), unix.Kill(pid, unix.SIGKILL)); err != nil {
					t.Fatal(err)
				}
			}
			_ = r.cmd.Process.Kill()
			<-r.ended
			eventually(t, "the keeper ends", func() bool { return !alive(keeper) })
			checkRoutes(t, "killed", routes, false)
		})
	}
}
