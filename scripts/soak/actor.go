package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxFiles = 24
	maxSize  = 512 << 10 // bytes of a file
	block    = 4096      // a write is whole in each of these
)

// actor works in a folder of its own and knows what must be in it.
type actor struct {
	soak *soak
	dir  string
	rng  *rand.Rand
	// want is the content of every file whose last operation was answered, and
	// open the descriptors kept from one operation to the next. Both belong to
	// whoever holds turn.
	turn sync.Mutex
	want map[string][]byte
	open map[string]*os.File

	mayFail atomic.Bool
	stale   atomic.Bool  // the descriptors belong to a mount that is gone
	windows atomic.Int64 // beginnings of times in which operations may fail
}

// change is an operation: what it does, and the files it changes as they are
// afterwards (nil = absent).
type change struct {
	what  string
	do    func() error
	after map[string][]byte
	// mixed allows each block of the files to be as before or as afterwards:
	// a large write is several requests.
	mixed bool
}

func newActor(s *soak, n int, seed uint64) (*actor, error) {
	a := &actor{soak: s, dir: filepath.Join(s.mount, fmt.Sprintf("actor%d", n)), rng: rand.New(rand.NewPCG(seed, uint64(n+1))),
		want: map[string][]byte{}, open: map[string]*os.File{}}
	return a, os.Mkdir(a.dir, 0o755)
}

func (a *actor) run(ctx context.Context) error {
	for ctx.Err() == nil {
		a.turn.Lock()
		err := a.step(ctx)
		a.turn.Unlock()
		if err != nil {
			return err
		}
		a.soak.ops.Add(1)
	}
	return nil
}

// step does one operation. One that fails when it may is settled afterwards;
// content that was lost is fatal at any time.
func (a *actor) step(ctx context.Context) error {
	if a.stale.Swap(false) {
		a.shutAll()
	}
	c := a.choose()
	allowed := a.failures()
	err := c.do()
	if err == nil {
		a.adopt(c.after)
		return nil
	}
	for cause := err; ; {
		if errors.As(cause, new(lostError)) || !allowed() {
			return fmt.Errorf("%s: %w", c.what, cause)
		}
		for a.mayFail.Load() {
			if ctx.Err() != nil {
				return nil
			}
			time.Sleep(5 * time.Millisecond)
		}
		allowed = a.failures()
		if cause = a.settle(c); cause == nil {
			return nil
		}
		cause = fmt.Errorf("settling after %q: %w", err, cause)
	}
}

// failures notes the time and returns a function that says whether what was
// done since may fail.
func (a *actor) failures() func() bool {
	windows, failing := a.windows.Load(), a.mayFail.Load()
	return func() bool { return failing || a.mayFail.Load() || a.windows.Load() != windows }
}

func (a *actor) adopt(after map[string][]byte) {
	for name, content := range after {
		if content == nil {
			delete(a.want, name)
			a.shut(name)
		} else {
			a.want[name] = content
		}
	}
}

// lostError reports content that is neither what it was nor what it should be.
type lostError struct{ text string }

func (e lostError) Error() string { return e.text }

// settle finds out what became of an operation that failed: each file must be
// as it was before or as it should be afterwards, and all of them alike.
func (a *actor) settle(c change) error {
	a.shutAll()
	var asBefore, asAfter = true, true
	now := map[string][]byte{}
	for name, after := range c.after {
		content, err := a.read(name)
		if err != nil {
			return err
		}
		before := a.want[name]
		now[name] = content
		asBefore = asBefore && same(content, before)
		asAfter = asAfter && same(content, after)
		if c.mixed && content != nil && !mixture(content, before, after) {
			return lostError{fmt.Sprintf("%s: content that was never written", name)}
		}
	}
	if !asBefore && !asAfter && !c.mixed {
		return lostError{fmt.Sprintf("half of the operation is there: %v", slices.Sorted(maps.Keys(c.after)))}
	}
	a.adopt(now)
	return nil
}

func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// mixture says whether every block of got is that of before or of after.
func mixture(got, before, after []byte) bool {
	if len(got) != len(before) && len(got) != len(after) &&
		// A write beyond the end may have got some way.
		(len(got) < len(before) || len(got) > len(after)) {
		return false
	}
	part := func(b []byte, off int) []byte {
		p := make([]byte, block) // beyond the end are zeros
		if off < len(b) {
			copy(p, b[off:])
		}
		return p
	}
	for off := 0; off < len(got); off += block {
		n := min(block, len(got)-off)
		g := part(got, off)[:n]
		if !bytes.Equal(g, part(before, off)[:n]) && !bytes.Equal(g, part(after, off)[:n]) {
			return false
		}
	}
	return true
}

// read returns a file's content, nil if it is absent.
func (a *actor) read(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		// Absent for real only while the folder is there.
		if _, dirErr := os.Stat(a.dir); dirErr != nil {
			return nil, dirErr
		}
		return nil, nil
	}
	if err == nil && b == nil {
		b = []byte{}
	}
	return b, err
}

// verifyAll compares the whole folder.
func (a *actor) verifyAll() error {
	if err := a.verifyNames(); err != nil {
		return err
	}
	for name := range a.want {
		if err := a.verify(name); err != nil {
			return err
		}
	}
	a.shutAll()
	return nil
}

func (a *actor) verifyNames() error {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := slices.Sorted(maps.Keys(a.want)); !slices.Equal(names, want) {
		return lostError{fmt.Sprintf("names %q, want %q", names, want)}
	}
	return nil
}

// verify reads a file through the descriptor kept for it.
func (a *actor) verify(name string) error {
	f, err := a.file(name)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 2*maxSize))
	if err != nil {
		return err
	}
	if want := a.want[name]; !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		return lostError{fmt.Sprintf("%s: %d bytes, want %d, other content from byte %d on", name, len(got), len(want), at)}
	}
	return nil
}

// file returns an open descriptor of a file.
func (a *actor) file(name string) (*os.File, error) {
	if f := a.open[name]; f != nil {
		return f, nil
	}
	f, err := os.OpenFile(filepath.Join(a.dir, name), os.O_RDWR, 0)
	if err == nil {
		a.open[name] = f
	}
	return f, err
}

func (a *actor) shut(name string) {
	if f := a.open[name]; f != nil {
		f.Close()
		delete(a.open, name)
	}
}

func (a *actor) shutAll() {
	for name := range a.open {
		a.shut(name)
	}
}
