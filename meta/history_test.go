package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// history is a random run on a volume over a Recorder: what was done, between
// which events, and what the volume should be after each operation.
type history struct {
	seed   uint64
	cfg    meta.Config
	rec    *store.Recorder
	begin  int // events of formatting
	steps  []step
	models []*model // after so many steps
	dumps  []string // of models
	bug    *mutant  // what is wrong with the engine on purpose; nil = nothing
}

// step is one operation, and two numbers of events: how many there were before
// it, and how many when it had answered.
type step struct {
	op         op
	start, end int
	durable    bool // everything before is durable, this included, when it has answered
	// wrote: everything before is in the host's page cache, this included, when
	// it has answered. A forget is not waited for, and what changed nothing
	// writes nothing.
	wrote bool
}

// note says what a step's end promises, from the state before and after it.
func (s *step) note(before, after string) {
	s.durable = s.op.kind == "sync"
	s.wrote = s.durable || s.op.kind != "forget" && before != after
}

// inFlight is the request a volume is working on; the tests send one at a time.
type inFlight struct{ unique atomic.Uint64 }

func (f *inFlight) list() []uint64 { return []uint64{f.unique.Load()} }

const session = 77

func caller(i int) meta.Caller { return meta.Caller{Session: session, Unique: uint64(2*i + 2)} }

// shm is where the Recorders' index files are: flushes must cost nothing.
func shm(t testing.TB) string {
	t.Helper()
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func format(t testing.TB, st store.Store) meta.Config {
	t.Helper()
	cfg, err := tryFormat(st)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// tryFormat is format for goroutines that are not the test's.
func tryFormat(st store.Store) (meta.Config, error) {
	cfg := meta.Config{Store: st, Key: crypto.Key{1, 2, 3}, VolumeID: [16]byte{4, 5, 6}, Now: anyClock()}
	return cfg, meta.Create(context.Background(), cfg, meta.Params{JournalBytes: 256 << 10, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])})
}

// play makes a history of n operations, with clean and unclean restarts and
// checkpoints in between. The caller closes its recorder.
func play(t testing.TB, dir string, seed uint64, n int) *history {
	t.Helper()
	rec, err := store.NewRecorder(dir)
	if err != nil {
		t.Fatal(err)
	}
	var flying inFlight
	h := &history{seed: seed, cfg: format(t, rec), rec: rec}
	h.cfg.InFlight = flying.list
	var clock opClock
	h.cfg.Now = clock.now
	defer func() { h.cfg.Now = anyClock() }() // in what follows many volumes are open at a time
	h.begin = rec.Len()
	open := func() *meta.Volume {
		v, err := meta.Open(context.Background(), h.cfg)
		if err != nil {
			t.Fatalf("seed %d, after %d operations: open: %v", seed, len(h.steps), err)
		}
		if seed%2 == 1 {
			v.CommitInParts()
		}
		v.OnlyAskedFor()
		return v
	}
	v := open()
	m := newModel()
	h.models, h.dumps = []*model{m}, []string{m.dump()}
	rnd := rand.New(rand.NewPCG(seed, 0))
	g := &generator{rnd: rnd, seeds: seed * 1000}
	mark := func(durable bool) {
		if durable && len(h.steps) > 0 {
			h.steps[len(h.steps)-1].durable = true
			h.steps[len(h.steps)-1].end = rec.Len()
		}
	}
	for i := range n {
		switch rnd.IntN(40) {
		case 0:
			if err := v.Close(context.Background()); err != nil {
				t.Fatalf("seed %d: close: %v", seed, err)
			}
			mark(true)
			v = open()
		case 1:
			if err := v.Abandon(); err != nil {
				t.Fatalf("seed %d: abandon: %v", seed, err)
			}
			v = open()
		case 2, 3:
			if err := v.Checkpoint(); err != nil {
				t.Fatalf("seed %d: checkpoint: %v", seed, err)
			}
			mark(true)
		case 4, 5, 6, 7:
			v.EndJournalFile()
		case 8, 9, 10, 11, 12, 13, 14, 15, 16, 17:
			v.FlushedLongAgo()
		case 18, 19, 20, 21, 22, 23, 24, 25:
			if err := v.GatherAll(); err != nil {
				t.Fatalf("seed %d: gather: %v", seed, err)
			}
		}
		if err := reclaim(v, m); err != nil {
			t.Fatalf("seed %d, after %d operations: %v", seed, i, err)
		}
		o := g.next(m)
		o.when = i + 1
		clock.set(o.when)
		s := step{op: o, start: rec.Len()}
		if rnd.IntN(4) == 0 {
			v.ReclaimSynced() // as the background does, at any time
		}
		c := caller(i)
		flying.unique.Store(c.Unique)
		got := o.run(v, c)
		s.end = rec.Len()
		if o.kind == "copy" && got.err == nil {
			o.length = min(o.length, int64(got.value)) // copying less is fine
			s.op.length = o.length
		}
		var want outcome
		if m, want = o.apply(m); !sameOutcome(o, got, want) {
			t.Fatalf("seed %d, operation %d: %v answered %v, want %v", seed, i, o, got, want)
		}
		h.models, h.dumps = append(h.models, m), append(h.dumps, m.dump())
		s.note(h.dumps[i], h.dumps[i+1])
		h.steps = append(h.steps, s)
	}
	if err := compare(v, h.dumps[n]); err != nil {
		t.Fatalf("seed %d: after all operations: %v", seed, err)
	}
	if err := v.Abandon(); err != nil {
		t.Fatal(err)
	}
	if rec.OpenFiles() != 0 {
		t.Errorf("seed %d: %d files left open", seed, rec.OpenFiles())
	}
	return h
}

// compare tells how a volume differs from what it should be.
func compare(v *meta.Volume, want string) error {
	got, err := dumpVolume(v)
	if err != nil {
		return err
	}
	if got != want {
		return errors.New(textDiff(got, want))
	}
	return nil
}

func textDiff(got, want string) string {
	var b strings.Builder
	in := map[string]int{}
	for line := range strings.Lines(got) {
		in[line]++
	}
	for line := range strings.Lines(want) {
		if in[line] == 0 {
			fmt.Fprintf(&b, "  - %s", line)
		}
		in[line]--
	}
	for line := range strings.Lines(got) {
		if in[line] > 0 {
			fmt.Fprintf(&b, "  + %s", line)
		}
	}
	return "the volume (+) is not what it should be (-):\n" + b.String()
}

// reclaim forgets the orphans that no model has, as a worker does that takes
// over: a forget may have been lost with the one before.
func reclaim(v *meta.Volume, models ...*model) error {
	for _, ino := range v.Orphans() {
		known := false
		for _, m := range models {
			known = known || m.nodes[ino] != nil
		}
		if known {
			continue
		}
		if err := v.Forget(ino); err != nil {
			return err
		}
	}
	return nil
}

// bounds returns how many operations a crash after so many events must have
// kept at least, and may have kept at most.
func (h *history) bounds(upto int) (lo, answered, hi int) {
	for i, s := range h.steps {
		if s.durable && s.end <= upto {
			lo = i + 1
		}
		if s.wrote && s.end <= upto {
			answered = i + 1
		}
		if s.start < upto {
			hi = i + 1
		}
	}
	answered = max(lo, answered)
	return lo, answered, max(hi, answered)
}

// reopen opens the volume on a state of its disk, with every request of the
// history counting as in flight.
func (h *history) reopen(rec *store.Recorder) (*meta.Volume, error) {
	cfg := h.cfg
	cfg.Store = h.bug.over(rec)
	cfg.InFlight = func() (all []uint64) {
		for i := range h.steps {
			all = append(all, caller(i).Unique)
		}
		return all
	}
	v, err := meta.Open(context.Background(), cfg)
	if err == nil && h.seed%2 == 1 {
		v.CommitInParts()
	}
	return v, err
}

// expect opens a state and checks that it is the history after some number of
// operations in [lo, hi], and consistent. It returns the open volume and that
// number.
func (h *history) expect(rec *store.Recorder, lo, hi int) (v *meta.Volume, k int, err error) {
	v, err = h.reopen(rec)
	if err != nil {
		return nil, 0, fmt.Errorf("open: %w", err)
	}
	opened := v
	defer func() {
		if err != nil {
			opened.Abandon()
		}
	}()
	got, err := dumpVolume(v)
	if err != nil {
		return nil, 0, err
	}
	for k := hi; k >= lo; k-- {
		if got == h.dumps[k] {
			return v, k, nil
		}
	}
	for k, d := range h.dumps {
		if got == d {
			return nil, 0, fmt.Errorf("the volume has the first %d operations, want %d to %d", k, lo, hi)
		}
	}
	return nil, 0, fmt.Errorf("no state of the history; nearest to %d operations: %s", lo, textDiff(got, h.dumps[lo]))
}

// check runs the volume's own check, which must find nothing.
func (h *history) check(rec *store.Recorder) error {
	cfg := h.cfg
	cfg.Store = rec
	found, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("check: %v", found)
	}
	return nil
}
