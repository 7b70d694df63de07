package meta_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"cmkfs/meta"
	"cmkfs/store"
)

// lives is a volume that goes through crash after crash, working in between.
type lives struct {
	cfg    meta.Config
	clock  opClock
	rec    *store.Recorder
	rnd    *rand.Rand
	models []*model // after so many operations that were not lost
	dumps  []string
	safe   int    // so many operations survive a crash of the host
	unique int    // requests so far
	steps  []step // of the present life; step i leads to models[first+i+1]
	first  int
	begin  int // events of the present life's store before it began
}

// work opens the volume and does some operations.
func (l *lives) work(ops int) error {
	l.begin, l.first, l.steps = l.rec.Len(), len(l.models)-1, nil
	h := &history{cfg: l.cfg}
	v, err := h.reopen(l.rec)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer v.Abandon()
	g := &generator{rnd: l.rnd, seeds: uint64(l.unique) * 1000}
	for range l.rnd.IntN(ops) {
		m := l.models[len(l.models)-1]
		o := g.next(m)
		l.unique++
		o.when = l.unique
		l.clock.set(o.when)
		s := step{op: o, start: l.rec.Len()}
		got := o.run(v, caller(l.unique))
		if got.err == nil && o.kind == "copy" {
			o.length = min(o.length, int64(got.value))
		}
		if got.err == nil && o.newInode() {
			// Inodes that were lost, or came and went, leave a gap in the numbers.
			if m.nodes[got.value] != nil {
				return fmt.Errorf("%v answered %v, which is another inode", o, got)
			}
			m = &model{m.root, m.nodes, got.value}
		}
		next, want := o.apply(m)
		if !sameOutcome(o, got, want) {
			return fmt.Errorf("%v answered %v, want %v", o, got, want)
		}
		s.note(l.dumps[len(l.dumps)-1], next.dump())
		if l.rnd.IntN(4) == 0 {
			v.ReclaimSynced() // as the background does, at any time
		}
		if l.rnd.IntN(8) == 0 {
			v.EndJournalFile()
		}
		if l.rnd.IntN(4) == 0 {
			v.FlushedLongAgo()
		}
		if l.rnd.IntN(10) == 0 {
			if err := v.GatherAll(); err != nil {
				return err
			}
		}
		if l.rnd.IntN(15) == 0 {
			if err := v.Checkpoint(); err != nil {
				return err
			}
			s.durable = true
		}
		s.end = l.rec.Len()
		l.steps, l.models, l.dumps = append(l.steps, s), append(l.models, next), append(l.dumps, next.dump())
	}
	return compare(v, l.dumps[len(l.dumps)-1])
}

// crash ends the present life at one of its events, and finds what is left.
func (l *lives) crash(process bool) error {
	end := l.rec.Len()
	upto := l.begin + l.rnd.IntN(end-l.begin+1)
	h := &history{cfg: l.cfg, steps: l.steps}
	durable, answered, hi := h.bounds(upto)
	lo := l.safe
	if durable > 0 {
		lo = l.first + durable
	}
	keep := pick(l.rnd, keeps)
	how := fmt.Sprintf("event %d of %d to %d, host, keeps %s", upto, l.begin, end, keep.name)
	rec, err := (*store.Recorder)(nil), error(nil)
	if process {
		how = fmt.Sprintf("event %d of %d to %d, process", upto, l.begin, end)
		rec, err = l.rec.Killed(upto)
	} else {
		rec, err = l.rec.State(upto, keep.make(l.rnd))
	}
	if err != nil {
		return err
	}
	l.rec.Close()
	l.rec, l.safe = rec, lo
	if process {
		lo = l.first + answered
	}
	if err := l.find(lo, l.first+hi, process); err != nil {
		return fmt.Errorf("%s: %w", how, err)
	}
	return nil
}

// find looks which operations are left, on a copy of the disk, so that the
// recovery of the next life is a first one.
func (l *lives) find(lo, hi int, process bool) error {
	look, err := l.rec.Killed(l.rec.Len())
	if err != nil {
		return err
	}
	defer look.Close()
	h := &history{cfg: l.cfg, dumps: l.dumps}
	v, k, err := h.expect(look, lo, hi)
	if err != nil {
		return err
	}
	if err := errors.Join(v.Abandon(), h.check(look)); err != nil {
		return err
	}
	l.models, l.dumps = l.models[:k+1], l.dumps[:k+1]
	if !process {
		l.safe = k // what is on the disk after a crash of the host stays there
	}
	return nil
}

// TestVolume_ManyLives: volumes that crash again and again, and work a little
// in between, lose nothing but what they may.
func TestVolume_ManyLives(t *testing.T) {
	dir := shm(t)
	var seed atomic.Uint64
	seed.Store(firstSeed())
	end := seed.Load() + uint64(crashStates(t, 1500)/15)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for s := seed.Add(1) - 1; s < end && !t.Failed(); s = seed.Add(1) - 1 {
				if err := liveOften(dir, s); err != nil {
					t.Errorf("seed %d, %v", s, err)
				}
			}
		})
	}
	wg.Wait()
}

// liveOften has a volume live and crash 15 times.
func liveOften(dir string, seed uint64) error {
	rec, err := store.NewRecorder(dir)
	if err != nil {
		return err
	}
	m := newModel()
	l := &lives{rec: rec, rnd: rand.New(rand.NewPCG(seed, 5)), models: []*model{m}, dumps: []string{m.dump()}}
	defer func() { l.rec.Close() }() // each crash replaces it
	if l.cfg, err = tryFormat(rec); err != nil {
		return err
	}
	l.cfg.Now = l.clock.now
	for n := range 15 {
		err := l.work(15)
		if err == nil {
			err = l.crash(l.rnd.IntN(2) == 0)
		}
		if err != nil {
			return fmt.Errorf("life %d: %w", n, err)
		}
	}
	return nil
}
