package store

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Open implements Store.
func (r *Recorder) Open(name string) (File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.lookupLocked(name)
	if err != nil {
		return nil, wrap("open", name, err)
	}
	return r.handleLocked(name, n)
}

// Create implements Store.
func (r *Recorder) Create(name string, size int64) (File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.folderLocked(name); err != nil {
		return nil, wrap("create", name, err)
	}
	if _, taken := r.mu.live.names[name]; taken {
		return nil, wrap("create", name, ErrExist)
	}
	n := r.mu.nextFile
	r.mu.nextFile++
	r.recordLocked(&change{Event: Event{Kind: EventCreate, Name: name}, file: n})
	if size > 0 {
		r.recordLocked(&change{Event: Event{Kind: EventTruncate, Name: name, Off: size}, file: n, liveSize: size})
	}
	return r.handleLocked(name, n)
}

// Remove implements Store.
func (r *Recorder) Remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.lookupLocked(name)
	if err != nil {
		return wrap("remove", name, err)
	}
	if r.mu.live.files[n].external {
		if err := os.Remove(r.Path(name)); err != nil {
			return wrap("remove", name, err)
		}
	}
	r.recordLocked(&change{Event: Event{Kind: EventRemove, Name: name}, file: n})
	return nil
}

// Rename implements Store.
func (r *Recorder) Rename(oldName, newName string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.lookupLocked(oldName)
	if err == nil {
		err = r.folderLocked(newName)
	}
	if err != nil {
		return wrap("rename", oldName, err)
	}
	external := r.mu.live.files[n].external
	if external {
		if err := os.Rename(r.Path(oldName), r.Path(newName)); err != nil {
			return wrap("rename", oldName, err)
		}
	}
	r.recordLocked(&change{Event: Event{Kind: EventRename, Name: newName}, file: n, oldName: oldName, external: external})
	return nil
}

// Mkdir implements Store.
func (r *Recorder) Mkdir(dir string) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.mu.live.dirs[dir] {
		r.recordLocked(&change{Event: Event{Kind: EventMkdir, Name: dir}})
	}
	return nil
}

// List implements Store.
func (r *Recorder) List(dir string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.adoptLocked()
	if !r.mu.live.dirs[dir] {
		return nil, wrap("list", dir, ErrNotExist)
	}
	names := []string{}
	for name := range r.mu.live.names {
		if d, base := splitName(name); d == dir {
			names = append(names, base)
		}
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir implements Store.
func (r *Recorder) SyncDir(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.mu.live.dirs[dir] {
		return wrap("sync folder", dir, ErrNotExist)
	}
	r.recordLocked(&change{Event: Event{Kind: EventSyncDir, Name: dir}})
	return nil
}

// Free implements Store: there is always a tebibyte.
func (r *Recorder) Free() (int64, error) { return 1 << 40, nil }

// Path implements Store.
func (r *Recorder) Path(name string) string { return filepath.Join(r.dir, name) }

// Lock implements Store.
func (r *Recorder) Lock() (io.Closer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.locked {
		return nil, wrap("lock", r.dir, ErrLocked)
	}
	r.mu.locked = true
	return &recordLock{r}, nil
}

type recordLock struct{ r *Recorder }

func (l *recordLock) Close() error {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.r.mu.locked = false
	return nil
}

// lookupLocked returns the number of the file that has a name.
func (r *Recorder) lookupLocked(name string) (int, error) {
	if err := r.folderLocked(name); err != nil {
		return 0, err
	}
	n, ok := r.mu.live.names[name]
	if !ok {
		r.adoptLocked()
		n, ok = r.mu.live.names[name]
	}
	if !ok {
		return 0, ErrNotExist
	}
	return n, nil
}

// folderLocked checks a name and that its folder exists.
func (r *Recorder) folderLocked(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if dir, _ := splitName(name); !r.mu.live.dirs[dir] {
		return ErrNotExist
	}
	return nil
}

func (r *Recorder) handleLocked(name string, n int) (File, error) {
	f := &recordFile{r: r, name: name, file: n}
	if r.mu.live.files[n].external {
		host, err := openAt(unix.AT_FDCWD, r.Path(name), unix.O_RDWR)
		if err != nil {
			return nil, wrap("open", name, err)
		}
		f.host = host
	}
	r.mu.open++
	return f, nil
}

// recordFile is an open file of a Recorder; r.mu guards closed.
type recordFile struct {
	r      *Recorder
	name   string
	file   int
	host   *os.File // the same file on the host; nil = it is in memory only
	closed bool
}

// lock returns the file's image with the Recorder locked, or, with it
// unlocked, an error.
func (f *recordFile) lock(op string) (*image, error) {
	f.r.mu.Lock()
	if f.closed {
		f.r.mu.Unlock()
		return nil, wrap(op, f.name, fs.ErrClosed)
	}
	return f.r.mu.live.files[f.file], nil
}

func (f *recordFile) ReadAt(p []byte, off int64) (int, error) {
	m, err := f.lock("read")
	if err != nil {
		return 0, err
	}
	defer f.r.mu.Unlock()
	n := max(0, min(int64(len(p)), m.size-off))
	m.read(p[:n], off)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (f *recordFile) WriteAt(p []byte, off int64) (int, error) {
	m, err := f.lock("write")
	if err != nil {
		return 0, err
	}
	defer f.r.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if f.host != nil {
		if n, err := f.host.WriteAt(p, off); err != nil {
			return n, wrap("write", f.name, err)
		}
	}
	f.r.recordLocked(&change{
		Event:    Event{Kind: EventWrite, Name: f.name, Off: off, Len: int64(len(p))},
		file:     f.file,
		external: f.host != nil,
		first:    off / SectorSize,
		sectors:  m.overlay(p, off),
		liveSize: max(m.size, off+int64(len(p))),
	})
	return len(p), nil
}

func (f *recordFile) Close() error {
	if _, err := f.lock("close"); err != nil {
		return err
	}
	defer f.r.mu.Unlock()
	f.closed = true
	f.r.mu.open--
	if f.host != nil {
		return wrap("close", f.name, f.host.Close())
	}
	return nil
}

func (f *recordFile) Sync() error {
	if _, err := f.lock("sync"); err != nil {
		return err
	}
	defer f.r.mu.Unlock()
	f.r.recordLocked(&change{Event: Event{Kind: EventSync, Name: f.name}, file: f.file})
	return nil
}

// loseUnsynced is a sync that fails as Faulty's Lost says.
func (f *recordFile) loseUnsynced() {
	if _, err := f.lock("sync"); err != nil {
		return
	}
	defer f.r.mu.Unlock()
	f.r.recordLocked(&change{Event: Event{Kind: EventLost, Name: f.name}, file: f.file})
}

func (f *recordFile) Cached(off, n int64) bool { return false }

func (f *recordFile) Prefetch(int64, int64) {}

func (f *recordFile) PunchHole(off, length int64) error {
	m, err := f.lock("punch hole")
	if err != nil {
		return err
	}
	defer f.r.mu.Unlock()
	end := min(off+length, m.size)
	if off >= end {
		return nil
	}
	if f.host != nil {
		if err := writeZeros(f.host, off, end-off); err != nil {
			return wrap("punch hole", f.name, err)
		}
	}
	f.r.recordLocked(&change{
		Event:    Event{Kind: EventPunch, Name: f.name, Off: off, Len: end - off},
		file:     f.file,
		external: f.host != nil,
		first:    off / SectorSize,
		sectors:  m.overlayZeros(off, end),
		liveSize: m.size,
	})
	return nil
}

func (f *recordFile) Truncate(size int64) error {
	if _, err := f.lock("truncate"); err != nil {
		return err
	}
	defer f.r.mu.Unlock()
	if f.host != nil {
		if err := f.host.Truncate(size); err != nil {
			return wrap("truncate", f.name, err)
		}
	}
	f.r.recordLocked(&change{Event: Event{Kind: EventTruncate, Name: f.name, Off: size}, file: f.file, liveSize: size, external: f.host != nil})
	return nil
}

func (f *recordFile) Size() (int64, error) {
	m, err := f.lock("stat")
	if err != nil {
		return 0, err
	}
	defer f.r.mu.Unlock()
	return m.size, nil
}
