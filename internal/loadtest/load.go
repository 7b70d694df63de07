package loadtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hands     = 2                      // of each kind
	pause     = 500 * time.Microsecond // between two operations of a hand: steady, not all the machine gives
	fileSize  = 1 << 20                // bytes
	mostBytes = 32 << 10               // of one read or write
	mostFails = 5                      // that are kept
)

// phase says what an operation is counted for.
type phase int

const (
	quiet phase = iota
	during
	phases
)

// load is one folder being worked on.
type load struct {
	dir  string
	stop chan struct{}
	mu   struct {
		sync.Mutex
		phase   phase
		windows [phases]Window
		failed  []error
	}
}

func newLoad(in string) (*load, error) {
	dir, err := os.MkdirTemp(in, "load-")
	if err != nil {
		return nil, err
	}
	return &load{dir: dir, stop: make(chan struct{})}, nil
}

// run works until stop is closed.
func (l *load) run() {
	var wait sync.WaitGroup
	for i := range hands {
		wait.Go(func() { l.data(filepath.Join(l.dir, fmt.Sprint("data", i)), uint64(i)) })
		wait.Go(func() { l.names(filepath.Join(l.dir, fmt.Sprint("names", i))) })
	}
	wait.Wait()
}

func (l *load) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(append(l.mu.failed, os.RemoveAll(l.dir))...)
}

func (l *load) enter(p phase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.phase = p
}

func (l *load) window(p phase) Window {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.windows[p]
}

// do does one operation. One that began or ended while the function ran counts
// for that time. It reports whether to go on.
func (l *load) do(op string, f func() error) bool {
	l.mu.Lock()
	p := l.mu.phase
	l.mu.Unlock()
	began := time.Now()
	err := f()
	took := time.Since(began)
	l.mu.Lock()
	w := &l.mu.windows[max(p, l.mu.phase)]
	w.Operations++
	if took > w.Slowest {
		w.Slowest, w.SlowestOp = took, op
	}
	if err != nil && len(l.mu.failed) < mostFails {
		l.mu.failed = append(l.mu.failed, fmt.Errorf("%s: %w", op, err))
	}
	l.mu.Unlock()
	select {
	case <-l.stop:
		return false
	case <-time.After(pause):
		return err == nil
	}
}

var errOtherData = errors.New("other data than written")

// data writes at random into one file and reads back from the disk, not from
// the kernel's cache.
func (l *load) data(path string, seed uint64) {
	var f *os.File
	want, got := make([]byte, fileSize), make([]byte, mostBytes)
	if !l.do("create", func() (err error) {
		f, err = os.Create(path)
		return err
	}) {
		return
	}
	defer f.Close()
	if !l.do("truncate", func() error { return f.Truncate(fileSize) }) {
		return
	}
	fill := rand.NewChaCha8([32]byte{byte(seed)})
	rng := rand.New(rand.NewPCG(seed, 1))
	part := func() (from, to int) {
		n := 1 + rng.IntN(mostBytes)
		from = rng.IntN(fileSize - n)
		return from, from + n
	}
	for {
		from, to := part()
		_, _ = fill.Read(want[from:to])
		if !l.do("write", func() error {
			_, err := f.WriteAt(want[from:to], int64(from))
			return err
		}) {
			return
		}
		from, to = part()
		if !l.do("read", func() error {
			_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			if _, err := f.ReadAt(got[:to-from], int64(from)); err != nil {
				return err
			}
			if !bytes.Equal(got[:to-from], want[from:to]) {
				return errOtherData
			}
			return nil
		}) {
			return
		}
	}
}

// names makes, looks at, renames and removes files.
func (l *load) names(dir string) {
	if !l.do("mkdir", func() error { return os.Mkdir(dir, 0o755) }) {
		return
	}
	for i := 0; ; i++ {
		name, other := filepath.Join(dir, fmt.Sprint("a", i)), filepath.Join(dir, fmt.Sprint("b", i))
		text := []byte(name)
		for _, step := range []struct {
			op string
			f  func() error
		}{
			{"create", func() error { return os.WriteFile(name, text, 0o600) }},
			{"stat", func() error {
				st, err := os.Stat(name)
				if err == nil && st.Size() != int64(len(text)) {
					err = errOtherData
				}
				return err
			}},
			{"rename", func() error { return os.Rename(name, other) }},
			{"open and read", func() error {
				b, err := os.ReadFile(other)
				if err == nil && !bytes.Equal(b, text) {
					err = errOtherData
				}
				return err
			}},
			{"readdir", func() error {
				entries, err := os.ReadDir(dir)
				if err == nil && (len(entries) != 1 || entries[0].Name() != filepath.Base(other)) {
					err = errOtherData
				}
				return err
			}},
			{"unlink", func() error { return os.Remove(other) }},
		} {
			if !l.do(step.op, step.f) {
				return
			}
		}
	}
}
