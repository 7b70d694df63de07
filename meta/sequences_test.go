package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmkfs/internal/race"
	"cmkfs/meta"
	"cmkfs/store"
)

// sequences plays short sequences of operations from one tree, and tries the
// crash states at every event of the last operation. Those of the operations
// before it are the states of a shorter sequence.
type sequences struct {
	cfg      meta.Config
	base     *store.Recorder
	model    *model
	bug      *mutant // see history
	perEvent int     // so many states at most at one event
	others   int     // other crashes than the host's: at one in so many events

	until time.Time // no further sequences after this; zero = all

	states atomic.Int64 // distinct ones
	played atomic.Int64
}

func newSequences(t testing.TB, dir string) *sequences {
	t.Helper()
	rec, err := store.NewRecorder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rec.Close() })
	s := &sequences{cfg: format(t, rec), base: rec, model: newModel(), perEvent: 12, others: 6}
	v, err := meta.Open(context.Background(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range seqTree() {
		if got := o.run(v, meta.Caller{}); got.err != nil {
			t.Fatalf("operation %d of the tree, %v: %v", i, o, got.err)
		}
		s.model, _ = o.apply(s.model)
	}
	if err := errors.Join(compare(v, s.model.dump()), v.Close(context.Background())); err != nil {
		t.Fatal(err)
	}
	return s
}

func everything(store.Event) bool { return true }
func nothing(store.Event) bool    { return false }

// play runs one sequence on a copy of the tree.
func (s *sequences) play(ops []op) (h *history, err error) {
	rec, err := s.base.State(s.base.Len(), everything)
	if err != nil {
		return nil, err
	}
	h = &history{cfg: s.cfg, rec: rec, bug: s.bug}
	h.cfg.Store = h.bug.over(rec)
	var flying inFlight
	h.cfg.InFlight = flying.list
	var clock opClock
	h.cfg.Now = clock.now
	defer func() { h.cfg.Now = s.cfg.Now }()
	defer func() {
		if err != nil {
			rec.Close()
		}
	}()
	v, err := meta.Open(context.Background(), h.cfg)
	if err != nil {
		return nil, err
	}
	h.bug.opened(v)
	defer func() { err = errors.Join(err, v.Abandon()) }()
	m := s.model
	h.models, h.dumps = []*model{m}, []string{m.dump()}
	for i, o := range ops {
		flying.unique.Store(caller(i).Unique)
		o.when = i + 1
		clock.set(o.when)
		if v, m, err = h.sequenceStep(v, m, i, o); err != nil {
			return nil, fmt.Errorf("%v: %w", o, err)
		}
	}
	return h, compare(v, m.dump())
}

// explore plays a sequence and tries its crash states from the first event of
// operation from on.
func (s *sequences) explore(ops []op, from int, rnd *rand.Rand) error {
	h, err := s.play(ops)
	if err != nil {
		return err
	}
	defer h.rec.Close()
	s.played.Add(1)
	begin := 0 // opening the volume is a part of the first one
	if from > 0 {
		begin = h.steps[from].start
	}
	type state struct {
		hash uint64
		lo   int
	}
	seen := map[state]bool{}
	for upto, end := begin, h.rec.Len(); upto <= end; upto++ {
		lo, _, hi := h.bounds(upto)
		for _, keep := range s.keeps(h.rec.Unsynced(upto), rnd) {
			crash := h.rec.Crash(upto, keep)
			if id := (state{crash.Hash(), lo}); seen[id] {
				continue
			} else {
				seen[id] = true
			}
			if err := h.recovered(crash, lo, hi, rnd); err != nil {
				return fmt.Errorf("event %d of %d to %d, the host crashes: %w", upto, begin, end, err)
			}
			s.states.Add(1)
		}
		if rnd.IntN(s.others) == 0 {
			try := pick(rnd, []crash{
				{"process", (*history).processCrash}, {"process, then host", (*history).processThenHost}, {"host, twice", (*history).hostTwice},
			})
			if err := try.run(h, rnd, upto); err != nil {
				return fmt.Errorf("event %d of %d to %d, crash of %s: %w", upto, begin, end, try.name, err)
			}
			s.states.Add(1)
		}
	}
	return nil
}

// recovered checks that a crash state recovers to the history after lo to hi
// operations, and, once in a while, that the volume goes on from there.
func (h *history) recovered(crash *store.Crash, lo, hi int, rnd *rand.Rand) error {
	rec, err := crash.Recorder()
	if err != nil {
		return err
	}
	defer rec.Close()
	v, k, err := h.expect(rec, lo, hi)
	if err != nil {
		return err
	}
	if rnd.IntN(16) == 0 {
		return h.goOn(v, rec, rnd, k)
	}
	if err := v.Abandon(); err != nil {
		return err
	}
	return h.check(rec)
}

// keeps are the states to try where these changes are not synced: all if there
// are few, otherwise a choice: nothing, everything, prefixes in which the last
// write is torn, all but one, and random subsets.
func (s *sequences) keeps(unsynced []store.Event, rnd *rand.Rand) []func(store.Event) bool {
	n := len(unsynced)
	bit := make(map[store.Event]int, n)
	for i, e := range unsynced {
		bit[e] = i
	}
	subset := func(has func(i int) bool) func(store.Event) bool {
		kept := make([]bool, n)
		for i := range kept {
			kept[i] = has(i)
		}
		return func(e store.Event) bool {
			i, asked := bit[e]
			return !asked || kept[i]
		}
	}
	var out []func(store.Event) bool
	if n < 20 && 1<<n <= s.perEvent {
		for mask := range 1 << n {
			out = append(out, subset(func(i int) bool { return mask>>i&1 == 1 }))
		}
		return out
	}
	out = append(out, subset(func(int) bool { return false }), subset(func(int) bool { return true }))
	for len(out) < s.perEvent {
		at := rnd.IntN(n)
		percent := pick(rnd, []int{10, 50, 50, 90})
		switch rnd.IntN(4) {
		case 0:
			out = append(out, subset(func(i int) bool { return i <= at }))
		case 1:
			out = append(out, subset(func(i int) bool { return i != at }))
		default:
			out = append(out, subset(func(int) bool { return rnd.IntN(100) < percent }))
		}
	}
	return out
}

// run explores sequences on all processors until one fails, there are none, or
// the time is up.
func (s *sequences) run(seqs [][]op) error {
	var wg sync.WaitGroup
	var next atomic.Int64
	var failed atomic.Pointer[error]
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(seqs) || !s.until.IsZero() && time.Now().After(s.until) {
					return
				}
				watchdog := time.AfterFunc(2*time.Minute, func() { panic("it hangs: " + describe(seqs[i])) })
				err := s.explore(seqs[i], len(seqs[i])-1, rand.New(rand.NewPCG(uint64(i), uint64(len(seqs[i])))))
				watchdog.Stop()
				if err != nil {
					err = fmt.Errorf("%s: %w", describe(seqs[i]), err)
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func describe(ops []op) string {
	var parts []string
	for _, o := range ops {
		parts = append(parts, o.String())
	}
	return strings.Join(parts, "; ")
}

// allPairs is every sequence of one operation and of two.
func allPairs() (out [][]op) {
	for _, a := range seqOps {
		out = append(out, []op{a})
	}
	for _, a := range seqOps {
		for _, b := range seqOps {
			out = append(out, []op{a, b})
		}
	}
	return out
}

// triples is a choice of n sequences of three operations.
func triples(n int, rnd *rand.Rand) (out [][]op) {
	for range n {
		out = append(out, []op{pick(rnd, seqOps), pick(rnd, seqOps), pick(rnd, seqOps)})
	}
	return out
}

// TestVolume_AllSequences tries the crash states of all sequences of one and
// two operations, and of some of three. CMKFS_CRASH_STATES says how many states
// to try: what the first leave of them is for sequences of three. Without it,
// a slow machine stops after some minutes, and one under the race detector after
// one; the order is random, and the log says how far it came.
func TestVolume_AllSequences(t *testing.T) {
	budget := int64(crashStates(t, 80_000))
	s := newSequences(t, shm(t))
	switch {
	case os.Getenv("CMKFS_CRASH_STATES") != "":
	case race.Detector:
		s.until = time.Now().Add(time.Minute)
	default:
		s.until = time.Now().Add(4 * time.Minute)
	}
	rnd := rand.New(rand.NewPCG(1, 0))
	pairs := allPairs()
	rnd.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	if err := s.run(pairs); err != nil {
		t.Fatal(err)
	}
	short := s.played.Load()
	for s.states.Load() < budget && int(short) == len(pairs) {
		if err := s.run(triples(200, rnd)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d operations, %d of %d sequences of one and two, %d of three: %d distinct states",
		len(seqOps), short, len(pairs), s.played.Load()-short, s.states.Load())
}
