// Package stress lets many workers use the same few files and directories at
// once, and wants afterwards what no order of their operations can break: no
// name lost or doubled, as many links as names, every directory in one place
// and reachable, every block as the last of the writes to it left it.
package stress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir stands for a directory: wherever it is moved, it stays the same.
type Dir uint64

// Entry is one of a directory's.
type Entry struct {
	Name  string
	Ino   uint64
	IsDir bool
	Nlink uint32
}

// FileSystem is what the workers use. Errors are errnos, for those that two
// workers may give each other.
type FileSystem interface {
	Root() Dir
	Mkdir(dir Dir, name string) error
	Open(dir Dir, name string) (Dir, error)
	Entries(dir Dir) ([]Entry, error)
	Create(dir Dir, name string) error
	Link(dir Dir, name string, dir2 Dir, name2 string) error
	Unlink(dir Dir, name string) error
	Rename(dir Dir, name string, dir2 Dir, name2 string, flags uint) error
	OpenFile(dir Dir, name string) (File, error)
}

// File is an open file.
type File interface {
	Ino() uint64 // no other file has, or has had
	WriteAt(p []byte, off int64) (int, error)
	ReadAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	// Map writes one block through a mapping. A file system without mappings
	// does as WriteAt.
	Map(p []byte, off int64) error
	Close() error
}

const (
	blockSize = 4096
	blocks    = 4 // written by WriteAt
	mapped    = 4 // behind them: written through mappings
	dirCount  = 6
	nameCount = 8
)

// Config says what is done.
type Config struct {
	FileSystem
	Workers int
	Seed    uint64
	// Replace has renames replace what is there. Without, names are counted.
	Replace bool
	// Until ends the work.
	Until <-chan struct{}
}

// Run makes directories, works in them until told to stop, and returns what is
// wrong in the end.
func Run(cfg Config) (operations int64, err error) {
	r := &run{Config: cfg, serial: serial{changes: map[place][]change{}}}
	r.dirs = []Dir{cfg.Root()}
	for i := range dirCount {
		if err := cfg.Mkdir(cfg.Root(), fmt.Sprint("d", i)); err != nil {
			return 0, err
		}
		dir, err := cfg.Open(cfg.Root(), fmt.Sprint("d", i))
		if err != nil {
			return 0, err
		}
		r.dirs = append(r.dirs, dir)
	}
	var wg sync.WaitGroup
	errs := make([]error, cfg.Workers)
	for i := range cfg.Workers {
		wg.Go(func() {
			w := &worker{run: r, rnd: rand.New(rand.NewPCG(cfg.Seed, uint64(i))), tag: uint64(i+1) << 32}
			for errs[i] == nil && !r.failed.Load() {
				select {
				case <-cfg.Until:
					return
				default:
				}
				if errs[i] = w.step(); errs[i] != nil {
					r.failed.Store(true)
				}
				r.operations.Add(1)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return r.operations.Load(), err
	}
	return r.operations.Load(), r.check()
}

type run struct {
	Config
	serial     serial
	dirs       []Dir
	operations atomic.Int64
	failed     atomic.Bool
	names      atomic.Int64 // of files, as the answers have it
	maps       [64]sync.Mutex
}

type worker struct {
	*run
	rnd *rand.Rand
	tag uint64
}

func (w *worker) dir() Dir     { return w.dirs[w.rnd.IntN(len(w.dirs))] }
func (w *worker) name() string { return fmt.Sprint("f", w.rnd.IntN(nameCount)) }

// expected says whether an error is one that workers give each other.
func expected(err error) bool {
	for _, errno := range []syscall.Errno{unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.EINVAL, unix.ELOOP, unix.ESTALE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// judge returns what of an error is a failure of the test. delta is by how much
// the number of names has changed if there was none.
func (w *worker) judge(what string, err error, delta int64) error {
	switch {
	case err == nil:
		w.names.Add(delta)
	case expected(err):
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (w *worker) step() error {
	switch w.rnd.IntN(16) {
	case 0, 1:
		return w.judge("create", w.Create(w.dir(), w.name()), 1)
	case 2:
		return w.judge("link", w.Link(w.dir(), w.name(), w.dir(), w.name()), 1)
	case 3:
		return w.judge("unlink", w.Unlink(w.dir(), w.name()), -1)
	case 4, 5:
		return w.judge("rename", w.Rename(w.dir(), w.name(), w.dir(), w.name(), w.flags()), 0)
	case 6, 7:
		name := fmt.Sprint("d", w.rnd.IntN(dirCount))
		return w.judge("rename directory", w.Rename(w.dir(), name, w.dir(), name, unix.RENAME_NOREPLACE), 0)
	case 8:
		name, other := fmt.Sprint("d", w.rnd.IntN(dirCount)), fmt.Sprint("d", w.rnd.IntN(dirCount))
		return w.judge("exchange directories", w.Rename(w.dir(), name, w.dir(), other, unix.RENAME_EXCHANGE), 0)
	case 9, 10:
		return w.list()
	}
	f, err := w.OpenFile(w.dir(), w.name())
	if err != nil {
		return w.judge("open", err, 0)
	}
	return errors.Join(w.use(f), f.Close())
}

func (w *worker) flags() uint {
	if w.Replace && w.rnd.IntN(2) == 0 {
		return 0
	}
	return []uint{unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[w.rnd.IntN(2)]
}

// list wants no name twice, whatever happens meanwhile.
func (w *worker) list() error {
	entries, err := w.Entries(w.dir())
	if err != nil {
		return w.judge("readdir", err, 0)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if seen[e.Name] {
			return fmt.Errorf("readdir: %q twice", e.Name)
		}
		seen[e.Name] = true
	}
	return nil
}

// use writes, maps or truncates.
func (w *worker) use(f File) error {
	w.tag++
	start := w.serial.now()
	b := w.rnd.Uint64N(blocks)
	switch w.rnd.IntN(6) {
	case 0:
		size := w.rnd.Uint64N(blocks + mapped)
		err := f.Truncate(int64(size * blockSize))
		for b := size; b < blocks+mapped; b++ {
			w.serial.note(place{f.Ino(), b}, 0, start, err != nil)
		}
		return w.judge("truncate", err, 0)
	case 1:
		b += blocks
		// Two who store in one page at a time mix their bytes: so on any system.
		mu := &w.maps[(f.Ino()*mapped+b)%uint64(len(w.maps))]
		mu.Lock()
		defer mu.Unlock()
		start = w.serial.now()
		err := f.Map(content(w.tag), int64(b*blockSize))
		w.serial.note(place{f.Ino(), b}, w.tag, start, err != nil)
		return w.judge("write through a mapping", err, 0)
	}
	_, err := f.WriteAt(content(w.tag), int64(b*blockSize))
	w.serial.note(place{f.Ino(), b}, w.tag, start, err != nil)
	return w.judge("write", err, 0)
}

func content(tag uint64) []byte {
	p := make([]byte, blockSize)
	for i := 0; i < blockSize; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], tag)
	}
	return p
}
