package meta_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"cmkfs/meta"
	"cmkfs/store"
)

// lane is one of several concurrent users of a volume, in a directory of its
// own, with a model of that directory.
type lane struct {
	number int
	steps  []step
	models []*model
	dumps  []string
	mine   map[uint64]bool // inodes it ever made
	// unknown: the last operation failed, and if it made an inode all the same,
	// nobody knows its number, or if it copied, how much.
	unknown bool
}

// errDoubt ends a lane whose last operation failed for no reason of its own. It may
// have been applied.
var errDoubt = errors.New("an operation failed")

// playLanes lets several lanes work at once, and the volume checkpoint as it
// pleases. decide, if not nil, has calls to the store fail. The caller closes the
// history's recorder.
func playLanes(t *testing.T, dir string, seed uint64, lanes, ops int, decide func(store.Op) *store.Fault) (*history, []*lane) {
	t.Helper()
	rec, err := store.NewRecorder(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{seed: seed, cfg: format(t, rec), rec: rec}
	var armed atomic.Bool
	if decide != nil {
		h.cfg.Store = store.NewFaulty(rec, func(op store.Op) *store.Fault {
			if armed.Load() {
				return decide(op)
			}
			return nil
		})
	}
	v := openVolume(t, h.cfg)
	if seed%2 == 1 {
		v.CommitInParts()
	}
	all := make([]*lane, lanes)
	for i := range all {
		a, err := v.Mkdir(meta.Caller{}, meta.RootIno, fmt.Sprint("lane", i), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		m := newTree(a.Ino)
		all[i] = &lane{number: i, models: []*model{m}, dumps: []string{m.dump()}, mine: map[uint64]bool{}}
	}
	if err := v.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	h.begin = rec.Len()
	armed.Store(true)
	var wg sync.WaitGroup
	for i, l := range all {
		wg.Go(func() {
			g := &generator{rnd: rand.New(rand.NewPCG(seed, uint64(i))), seeds: (seed*10 + uint64(i)) * 1000}
			for j := range ops {
				if err := l.step(v, rec, g); decide != nil && errors.Is(err, errDoubt) {
					return
				} else if err != nil {
					t.Errorf("seed %d, lane %d, operation %d: %v", seed, i, j, err)
					return
				}
				if g.rnd.IntN(15) == 0 {
					v.EndJournalFile()
				}
				if g.rnd.IntN(4) == 0 {
					v.FlushedLongAgo()
				}
				if g.rnd.IntN(20) == 0 {
					if err := v.GatherAll(); err != nil && decide == nil {
						t.Errorf("seed %d: gather: %v", seed, err)
						return
					}
				}
				if g.rnd.IntN(30) == 0 {
					if decide != nil {
						v.Wake() // after a checkpoint that failed nobody else may make one
					} else if err := v.Checkpoint(); err != nil {
						t.Errorf("seed %d: checkpoint: %v", seed, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	armed.Store(false)
	if err := v.Abandon(); err != nil && decide == nil {
		t.Fatal(err)
	}
	return h, all
}

func (l *lane) step(v *meta.Volume, rec *store.Recorder, g *generator) error {
	m := l.models[len(l.models)-1]
	o := g.next(m)
	s := step{op: o, start: rec.Len()}
	got := o.run(v, l.caller(len(l.steps)))
	s.end = rec.Len()
	if got.err == nil && o.kind == "copy" {
		o.length = min(o.length, int64(got.value))
		s.op = o
	}
	if got.err == nil && o.newInode() { // the others take numbers, too
		l.mine[got.value] = true
		m = &model{m.root, m.nodes, got.value}
	}
	next, want := o.apply(m)
	if got.err != nil && !sameOutcome(o, got, want) {
		s.end = math.MaxInt // it was not answered, or not as an operation that is done
		l.unknown = (o.newInode() || o.kind == "copy") && want.err == nil
		l.models, l.dumps, l.steps = append(l.models, next), append(l.dumps, next.dump()), append(l.steps, s)
		return fmt.Errorf("%w: %v answered %w", errDoubt, o, got.err)
	}
	if !sameOutcome(o, got, want) {
		return fmt.Errorf("%v answered %v, want %v", o, got, want)
	}
	l.models, l.dumps = append(l.models, next), append(l.dumps, next.dump())
	s.note(l.dumps[len(l.steps)], l.dumps[len(l.steps)+1])
	l.steps = append(l.steps, s)
	return nil
}

// caller is that of the lane's request i.
func (l *lane) caller(i int) meta.Caller { return caller(l.number*1000 + i) }

// resend delivers the lane's last request again, as the kernel does when the
// worker that had it died. It must be applied once.
func (l *lane) resend(v *meta.Volume, n int) error {
	if n == 0 {
		return nil
	}
	o := l.steps[n-1].op
	_, want := o.apply(l.before(n - 1))
	if want.err != nil || o.kind == "forget" || o.kind == "sync" {
		return nil
	}
	if (o.newInode() || o.kind == "copy") && l.expect(v, n, n) != nil {
		return nil // it would be done now for the first time, and take another lane's number, or copy less
	}
	if err := l.reclaim(v, n); err != nil {
		return err
	}
	if got := o.run(v, l.caller(n-1)); !sameOutcome(o, got, want) {
		return fmt.Errorf("sent again, %v answered %v, want %v", o, got, want)
	}
	if err := l.expect(v, n, n); err != nil {
		return fmt.Errorf("sent again, %v: %w", o, err)
	}
	return nil
}

// reclaim forgets the lane's orphans that it does not have before or after its
// last of n operations.
func (l *lane) reclaim(v *meta.Volume, n int) error {
	for _, ino := range v.Orphans() {
		if l.mine[ino] && l.models[n-1].nodes[ino] == nil && l.models[n].nodes[ino] == nil {
			if err := v.Forget(ino); err != nil {
				return err
			}
		}
	}
	return nil
}

// before is the model that the lane's operation i is applied to.
func (l *lane) before(i int) *model {
	m := l.models[i]
	for ino := range l.models[i+1].nodes {
		if m.nodes[ino] == nil { // the number the operation gave
			return &model{m.root, m.nodes, ino}
		}
	}
	return m
}

// expect checks that the lane's directory is as after [lo, hi] of its
// operations.
func (l *lane) expect(v *meta.Volume, lo, hi int) error {
	got, err := dumpTree(v, l.models[0].root, func(ino uint64) bool { return l.mine[ino] })
	if err != nil {
		return err
	}
	for k := lo; k <= hi; k++ {
		if got == l.dumps[k] {
			return nil
		}
	}
	for k, d := range l.dumps {
		if got == d {
			return fmt.Errorf("the first %d operations are there, want %d to %d", k, lo, hi)
		}
	}
	return fmt.Errorf("no state of the history; nearest to %d operations: %s", lo, textDiff(got, l.dumps[lo]))
}

// TestVolume_ConcurrentCrashes tries crashes of process and host at the events
// of histories made by several users at once.
func TestVolume_ConcurrentCrashes(t *testing.T) {
	dir := shm(t)
	tried := 0
	for seed := firstSeed(); tried < crashStates(t, 2000) && !t.Failed(); seed++ {
		h, lanes := playLanes(t, dir, seed, 4, 25, nil)
		rnd := rand.New(rand.NewPCG(seed, 99))
		for upto := h.begin; upto <= h.rec.Len() && !t.Failed(); upto += 1 + rnd.IntN(3) {
			var rec *store.Recorder
			var err error
			process := rnd.IntN(3) == 0
			if process {
				rec, err = h.rec.Killed(upto)
			} else {
				rec, err = h.rec.State(upto, pick(rnd, keeps).make(rnd))
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := h.expectLanes(rec, lanes, upto, process); err != nil {
				t.Errorf("seed %d, event %d of %d, process %v: %v", seed, upto, h.rec.Len(), process, err)
			}
			rec.Close()
			tried++
		}
		h.rec.Close()
	}
	t.Logf("%d states", tried)
}

// TestVolume_ConcurrentFaults: while several users and the background work, one
// call to the store fails. Whatever was answered as done is there for the next
// process, once, and what was flushed survives a crash of the host; what was not
// answered can be sent again.
func TestVolume_ConcurrentFaults(t *testing.T) {
	dir := shm(t)
	hit, tried := 0, 0
	for seed := firstSeed(); tried < crashStates(t, 600) && !t.Failed(); seed++ {
		rnd := rand.New(rand.NewPCG(seed, 98))
		name := pick(rnd, slices.Sorted(maps.Keys(faults)))
		calls, at := 0, rnd.IntN(250)
		h, lanes := playLanes(t, dir, seed, 4, 25, func(store.Op) *store.Fault {
			if calls++; calls-1 != at {
				return nil
			}
			hit++
			fault := faults[name]
			return &fault
		})
		for _, process := range []bool{true, false} {
			var rec *store.Recorder
			var err error
			if process {
				rec, err = h.rec.Killed(h.rec.Len())
			} else {
				rec, err = h.rec.State(h.rec.Len(), pick(rnd, keeps).make(rnd))
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := h.expectLanes(rec, lanes, h.rec.Len(), process); err != nil {
				t.Errorf("seed %d, %s at call %d, process %v: %v", seed, name, at, process, err)
			}
			rec.Close()
			tried++
		}
		h.rec.Close()
	}
	if t.Logf("%d states, %d faults", tried, hit); hit < tried/8 {
		t.Error("hardly any call failed")
	}
}

func (h *history) expectLanes(rec *store.Recorder, lanes []*lane, upto int, process bool) error {
	cfg := h.cfg
	cfg.Store = rec
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	for i, l := range lanes {
		if l.unknown {
			continue
		}
		own := history{steps: l.steps}
		lo, answered, hi := own.bounds(upto)
		for _, other := range lanes { // anybody's sync is for everybody
			for _, s := range other.steps {
				if s.durable && s.end <= upto {
					_, before, _ := own.bounds(s.start)
					lo = max(lo, before)
				}
			}
		}
		if process {
			lo = answered
		}
		if err = l.expect(v, lo, hi); err != nil {
			err = fmt.Errorf("lane %d: %w", i, err)
			break
		}
		if process {
			if err = l.resend(v, hi); err != nil {
				err = fmt.Errorf("lane %d: %w", i, err)
				break
			}
		}
	}
	return errors.Join(err, v.Abandon(), h.check(rec))
}
