package store

import (
	"fmt"
	"io"
	"sync"
)

// Op is one call that a Faulty may fail.
type Op struct {
	N    int    // number of the call, from 0
	Call string // "Open", "Create", "WriteAt", …
	Name string // of the file or folder
}

// Fault is how a call fails.
type Fault struct {
	// Err is the cause, such as syscall.EIO; the call's error wraps it. With nil
	// the call does nothing and says that it has: a store that lies.
	Err error
	// Applied makes the call take effect all the same.
	Applied bool
	// Short makes WriteAt write the first half before it fails.
	Short bool
	// Lost makes a failed Sync of a Recorder's file lose what it should have
	// written, as Linux does: it stays visible until the host crashes, and a
	// later Sync succeeds without writing it. Only writing it again helps.
	Lost bool
}

// Faulty is a Store that fails chosen calls of another one. It is for tests.
type Faulty struct {
	s      Store
	decide func(Op) *Fault

	mu struct {
		sync.Mutex
		n int
	}
}

// NewFaulty decorates s. decide is asked before every call but Path, Lock and
// Close, one at a time; nil lets the call through.
func NewFaulty(s Store, decide func(Op) *Fault) *Faulty { return &Faulty{s: s, decide: decide} }

// FailNth returns a decision that fails call n only.
func FailNth(n int, fault Fault) func(Op) *Fault {
	return func(op Op) *Fault {
		if op.N == n {
			return &fault
		}
		return nil
	}
}

// Calls returns the number of calls so far, those that failed included.
func (f *Faulty) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.n
}

// ask counts a call and returns the fault for it.
func (f *Faulty) ask(call, name string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	op := Op{N: f.mu.n, Call: call, Name: name}
	f.mu.n++
	return f.decide(op)
}

// do makes a call, unless it shall fail.
func (f *Faulty) do(call, name string, fn func() error) error {
	fault := f.ask(call, name)
	if fault == nil {
		return fn()
	}
	if fault.Applied {
		if err := fn(); err != nil {
			return err
		}
	}
	return fault.err(call, name)
}

func (x *Fault) err(call, name string) error {
	if x.Err == nil {
		return nil
	}
	return wrap(call, name, fmt.Errorf("injected fault: %w", x.Err))
}

// file makes a call that returns a file, which is closed if the call fails.
func (f *Faulty) file(call, name string, fn func() (File, error)) (File, error) {
	var g File
	err := f.do(call, name, func() (err error) {
		g, err = fn()
		return err
	})
	if err != nil {
		if g != nil {
			g.Close()
		}
		return nil, err
	}
	if g == nil {
		return nil, wrap(call, name, ErrNotExist) // no lie can be told here
	}
	return &faultyFile{f: f, name: name, g: g}, nil
}

// Open implements Store.
func (f *Faulty) Open(name string) (File, error) {
	return f.file("Open", name, func() (File, error) { return f.s.Open(name) })
}

// Create implements Store.
func (f *Faulty) Create(name string, size int64) (File, error) {
	return f.file("Create", name, func() (File, error) { return f.s.Create(name, size) })
}

// Remove implements Store.
func (f *Faulty) Remove(name string) error {
	return f.do("Remove", name, func() error { return f.s.Remove(name) })
}

// Rename implements Store.
func (f *Faulty) Rename(oldName, newName string) error {
	return f.do("Rename", oldName, func() error { return f.s.Rename(oldName, newName) })
}

// Mkdir implements Store.
func (f *Faulty) Mkdir(dir string) error {
	return f.do("Mkdir", dir, func() error { return f.s.Mkdir(dir) })
}

// List implements Store.
func (f *Faulty) List(dir string) (names []string, err error) {
	err = f.do("List", dir, func() (err error) {
		names, err = f.s.List(dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

// SyncDir implements Store.
func (f *Faulty) SyncDir(dir string) error {
	return f.do("SyncDir", dir, func() error { return f.s.SyncDir(dir) })
}

// Free implements Store.
func (f *Faulty) Free() (n int64, err error) {
	err = f.do("Free", "", func() (err error) {
		n, err = f.s.Free()
		return err
	})
	return n, err
}

// Path implements Store; what is done to the path's file counts if the Store
// below is a Recorder and is told of it (see Watch).
func (f *Faulty) Path(name string) string { return f.s.Path(name) }

// Watch implements Watcher.
func (f *Faulty) Watch(name string, db any) {
	if r, ok := f.s.(*Recorder); ok {
		g := r.watched(name, db)
		g.route(db, &faultyFile{f: f, name: name, g: g})
	}
}

// Lock implements Store.
func (f *Faulty) Lock() (io.Closer, error) { return f.s.Lock() }

type faultyFile struct {
	f    *Faulty
	name string
	g    File
}

func (h *faultyFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = h.f.do("ReadAt", h.name, func() (err error) {
		n, err = h.g.ReadAt(p, off)
		return err
	})
	return n, err
}

func (h *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	fault := h.f.ask("WriteAt", h.name)
	if fault == nil {
		return h.g.WriteAt(p, off)
	}
	n := 0
	switch {
	case fault.Applied:
		n = len(p)
	case fault.Short:
		n = len(p) / 2
	}
	if n, err := h.g.WriteAt(p[:n], off); err != nil {
		return n, err
	}
	if fault.Err == nil {
		return len(p), nil
	}
	if fault.Applied {
		n = 0 // how much of it arrived is what the caller is not told
	}
	return n, fault.err("WriteAt", h.name)
}

func (h *faultyFile) Close() error { return h.g.Close() }

func (h *faultyFile) Sync() error {
	fault := h.f.ask("Sync", h.name)
	if fault == nil {
		return h.g.Sync()
	}
	if fault.Applied {
		if err := h.g.Sync(); err != nil {
			return err
		}
	}
	if f, ok := h.g.(*recordFile); ok && fault.Lost {
		f.loseUnsynced()
	}
	return fault.err("Sync", h.name)
}

func (h *faultyFile) Cached(off, n int64) bool { return false }

func (h *faultyFile) Prefetch(int64, int64) {}

func (h *faultyFile) PunchHole(off, length int64) error {
	return h.f.do("PunchHole", h.name, func() error { return h.g.PunchHole(off, length) })
}

func (h *faultyFile) Truncate(size int64) error {
	return h.f.do("Truncate", h.name, func() error { return h.g.Truncate(size) })
}

func (h *faultyFile) Size() (n int64, err error) {
	err = h.f.do("Size", h.name, func() (err error) {
		n, err = h.g.Size()
		return err
	})
	return n, err
}
