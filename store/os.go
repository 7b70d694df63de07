package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// newPrefix marks a file that Create is still filling.
const newPrefix = ".new-"

// Dir is a Store in a local directory. Every name is resolved from the
// directory's descriptor and no symbolic link is followed. Files have mode
// 0600, folders 0700.
type Dir struct {
	path string // absolute
	root *os.File
}

// OpenDir opens the directory path, which must exist and not be a symbolic
// link.
func OpenDir(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, wrap("open", path, err)
	}
	f, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, wrap("open", path, err)
	}
	return &Dir{path: path, root: f}, nil
}

// Close releases the directory; open files and a lock stay usable.
func (d *Dir) Close() error { return d.root.Close() }

// Path implements Store.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Open implements Store.
func (d *Dir) Open(name string) (File, error) {
	var f *os.File
	err := d.in(name, func(dir int, base string) (err error) {
		f, err = openAt(dir, base, unix.O_RDWR)
		return err
	})
	if err != nil {
		return nil, wrap("open", name, err)
	}
	return newFile(name, f)
}

// Create implements Store. The file is filled under a name of its own and
// renamed when it is complete: a process that dies here leaves a hidden file,
// which the next Create of the name takes over.
//
// The zeros are really written. Blocks that are only reserved are marked
// unwritten in the file system's metadata, and the first fdatasync after a
// write to one must commit the change of the mark: twice the cost.
func (d *Dir) Create(name string, size int64) (File, error) {
	var f *os.File
	err := d.in(name, func(dir int, base string) (err error) {
		// Fail early: filling may take long.
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			return ErrExist
		}
		temp := newPrefix + base
		f, err = openAt(dir, temp, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC)
		if err != nil {
			return err
		}
		if err = fillZero(f, size); err == nil {
			err = unix.Renameat2(dir, temp, dir, base, unix.RENAME_NOREPLACE)
		}
		if err != nil {
			f.Close()
			unix.Unlinkat(dir, temp, 0)
		}
		return err
	})
	if err != nil {
		return nil, wrap("create", name, err)
	}
	return newFile(name, f)
}

// fillZero allocates and writes size zero bytes.
func fillZero(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	// In one piece, so that the file is contiguous, and fails at once when the
	// space is not there. Writing alone does too where this is not supported.
	err := retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return writeZeros(f, 0, size)
}

func writeZeros(f *os.File, off, length int64) error {
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// Remove implements Store.
func (d *Dir) Remove(name string) error {
	return wrap("remove", name, d.in(name, func(dir int, base string) error {
		return unix.Unlinkat(dir, base, 0)
	}))
}

// Rename implements Store.
func (d *Dir) Rename(oldName, newName string) error {
	return wrap("rename", oldName, d.in(oldName, func(oldDir int, oldBase string) error {
		return d.in(newName, func(newDir int, newBase string) error {
			return unix.Renameat(oldDir, oldBase, newDir, newBase)
		})
	}))
}

// Mkdir implements Store.
func (d *Dir) Mkdir(dir string) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	err := unix.Mkdirat(int(d.root.Fd()), dir, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var f *os.File
		if f, err = d.folder(dir); err == nil {
			f.Close()
		}
	}
	return wrap("create folder", dir, err)
}

// List implements Store. It leaves out folders, the lock and files that
// Create has not completed.
func (d *Dir) List(dir string) ([]string, error) {
	f, err := d.folder(dir)
	if err != nil {
		return nil, wrap("list", dir, err)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, wrap("list", dir, err)
	}
	names := []string{}
	for _, e := range entries {
		if n := e.Name(); e.Type().IsRegular() && plain(n) && !(dir == "" && n == lockName) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir implements Store.
func (d *Dir) SyncDir(dir string) error {
	f, err := d.folder(dir)
	if err != nil {
		return wrap("sync folder", dir, err)
	}
	defer f.Close()
	return wrap("sync folder", dir, f.Sync())
}

// Free implements Store.
func (d *Dir) Free() (int64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(d.root.Fd()), &st) }); err != nil {
		return 0, wrap("statfs", d.path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// Lock implements Store with flock(2) on the file "lock".
func (d *Dir) Lock() (io.Closer, error) {
	f, err := openAt(int(d.root.Fd()), lockName, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, wrap("lock", d.path, err)
	}
	if err := retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		f.Close()
		return nil, wrap("lock", d.path, err)
	}
	return f, nil
}

// in calls fn with a descriptor of the folder of name and the rest of it.
func (d *Dir) in(name string, fn func(dir int, base string) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	dir, base := splitName(name)
	f, err := d.folder(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return fn(int(f.Fd()), base)
}

// folder opens a folder; "" gives a second descriptor of the root.
func (d *Dir) folder(dir string) (*os.File, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if dir == "" {
		dir = "."
	}
	return openAt(int(d.root.Fd()), dir, unix.O_RDONLY|unix.O_DIRECTORY)
}

func openAt(dir int, name string, flags int) (*os.File, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// osFile is a file of a Dir.
type osFile struct {
	name string
	f    *os.File
	raw  syscall.RawConn // of f
}

func newFile(name string, f *os.File) (File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, wrap("open", name, err)
	}
	return &osFile{name: name, f: f, raw: raw}, nil
}

func (o *osFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.f.ReadAt(p, off)
	return n, wrap("read", o.name, err)
}

// Cached uses cachestat(2), Linux 6.5. A read that does not wait (RWF_NOWAIT) is no
// way to ask: it has the host begin to read what it has not got.
func (o *osFile) Cached(off, n int64) bool {
	var st unix.Cachestat_t
	err := o.control("cachestat", func(fd int) error {
		return unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &st, 0)
	})
	page := int64(os.Getpagesize())
	return err == nil && n > 0 && int64(st.Cache) == (off+n-1)/page-off/page+1
}

func (o *osFile) Prefetch(off, n int64) {
	_ = o.control("prefetch", func(fd int) error { return unix.Fadvise(fd, off, n, unix.FADV_WILLNEED) })
}

func (o *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := o.f.WriteAt(p, off)
	return n, wrap("write", o.name, err)
}

func (o *osFile) Close() error { return wrap("close", o.name, o.f.Close()) }

func (o *osFile) Sync() error { return o.control("sync", unix.Fdatasync) }

func (o *osFile) PunchHole(off, length int64) error {
	if length <= 0 {
		return nil
	}
	err := o.control("punch hole", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	})
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	// Without holes the range must still read as zeros.
	size, err := o.Size()
	if err != nil || off >= size {
		return err
	}
	return wrap("punch hole", o.name, writeZeros(o.f, off, min(length, size-off)))
}

func (o *osFile) Truncate(size int64) error { return wrap("truncate", o.name, o.f.Truncate(size)) }

func (o *osFile) Size() (int64, error) {
	st, err := o.f.Stat()
	if err != nil {
		return 0, wrap("stat", o.name, err)
	}
	return st.Size(), nil
}

// control runs a system call on the descriptor, which cannot be closed, and
// its number be given to another file, meanwhile.
func (o *osFile) control(op string, call func(fd int) error) error {
	var callErr error
	err := o.raw.Control(func(fd uintptr) { callErr = retry(func() error { return call(int(fd)) }) })
	return wrap(op, o.name, errors.Join(err, callErr))
}
