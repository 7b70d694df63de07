package stress

import (
	"errors"
	"os"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// Host is a mounted file system. Its directories are held open, so that they
// are found wherever they have been moved.
type Host struct {
	root int
	mu   sync.Mutex
	fds  []int
}

// NewHost works in a directory. Close ends it.
func NewHost(path string) (*Host, error) {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return &Host{root: fd, fds: []int{fd}}, err
}

// Close closes what Open has opened.
func (h *Host) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range h.fds {
		_ = unix.Close(fd)
	}
	h.fds = nil
}

// again repeats a call that a signal has interrupted.
func again(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

func (h *Host) Root() Dir { return Dir(h.root) }

func (h *Host) Mkdir(dir Dir, name string) error {
	return again(func() error { return unix.Mkdirat(int(dir), name, 0o755) })
}

func (h *Host) Open(dir Dir, name string) (Dir, error) {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Openat(int(dir), name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fds = append(h.fds, fd)
	return Dir(fd), nil
}

func (h *Host) Entries(dir Dir) ([]Entry, error) {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Openat(int(dir), ".", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, name := range names {
		var st unix.Stat_t
		err := again(func() error { return unix.Fstatat(int(dir), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
		if err != nil {
			return nil, err
		}
		out = append(out, Entry{name, st.Ino, st.Mode&unix.S_IFMT == unix.S_IFDIR, uint32(st.Nlink)})
	}
	return out, nil
}

func (h *Host) Create(dir Dir, name string) error {
	return again(func() error { return unix.Mknodat(int(dir), name, unix.S_IFREG|0o644, 0) })
}

func (h *Host) Link(dir Dir, name string, dir2 Dir, name2 string) error {
	return again(func() error { return unix.Linkat(int(dir), name, int(dir2), name2, 0) })
}

func (h *Host) Unlink(dir Dir, name string) error {
	return again(func() error { return unix.Unlinkat(int(dir), name, 0) })
}

func (h *Host) Rename(dir Dir, name string, dir2 Dir, name2 string, flags uint) error {
	return again(func() error { return unix.Renameat2(int(dir), name, int(dir2), name2, flags) })
}

func (h *Host) OpenFile(dir Dir, name string) (File, error) {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Openat(int(dir), name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Other file systems give a number again: the birth tells the files apart.
	return hostFile{f, st.Ino ^ uint64(st.Btime.Sec*1e9+int64(st.Btime.Nsec))<<20}, nil
}

type hostFile struct {
	*os.File
	ino uint64
}

func (f hostFile) Ino() uint64 { return f.ino }

// Map fails with EINVAL where the file has no such block (any more).
func (f hostFile) Map(p []byte, off int64) error {
	m, err := unix.Mmap(int(f.Fd()), off, len(p), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(m) }()
	if !store(m, p) {
		return unix.EINVAL
	}
	return again(func() error { return unix.Msync(m, unix.MS_SYNC) })
}

// store copies into a mapping and says whether it is still there.
func store(m, p []byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { ok = recover() == nil }()
	copy(m, p)
	return true
}
