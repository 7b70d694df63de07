package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmkfs/internal/race"
	"cmkfs/meta"
	"cmkfs/store"
)

// crash is one experiment on a history.
type crash struct {
	name string
	run  func(h *history, rnd *rand.Rand, upto int) error
}

// keeps are the ways in which a crash of the host treats what was not synced.
var keeps = []struct {
	name string
	make func(rnd *rand.Rand) func(store.Event) bool
}{
	{"nothing", func(*rand.Rand) func(store.Event) bool { return func(store.Event) bool { return false } }},
	{"everything", func(*rand.Rand) func(store.Event) bool { return func(store.Event) bool { return true } }},
	{"half", func(rnd *rand.Rand) func(store.Event) bool {
		return func(store.Event) bool { return rnd.IntN(2) == 0 }
	}},
	{"most", func(rnd *rand.Rand) func(store.Event) bool {
		return func(store.Event) bool { return rnd.IntN(20) != 0 }
	}},
	{"little", func(rnd *rand.Rand) func(store.Event) bool {
		return func(store.Event) bool { return rnd.IntN(10) == 0 }
	}},
	{"journal", func(rnd *rand.Rand) func(store.Event) bool {
		return func(e store.Event) bool { return strings.HasPrefix(e.Name, "journal/") || rnd.IntN(2) == 0 }
	}},
	{"segments", func(rnd *rand.Rand) func(store.Event) bool {
		return func(e store.Event) bool { return strings.HasPrefix(e.Name, "segments") || rnd.IntN(2) == 0 }
	}},
	{"new", func(rnd *rand.Rand) func(store.Event) bool {
		first := -1
		return func(e store.Event) bool {
			if first < 0 {
				first = e.Seq + rnd.IntN(20)
			}
			return e.Seq >= first
		}
	}},
}

func experiments() []crash {
	var out []crash
	for _, k := range keeps {
		out = append(out, crash{"host, keeps " + k.name, func(h *history, rnd *rand.Rand, upto int) error {
			return h.hostCrash(rnd, upto, k.make(rnd))
		}})
	}
	return append(out,
		crash{"process", (*history).processCrash},
		crash{"process, then host", (*history).processThenHost},
		crash{"host, twice", (*history).hostTwice},
		crash{"resent", (*history).resent},
	)
}

func (h *history) hostCrash(rnd *rand.Rand, upto int, keep func(store.Event) bool) error {
	rec, err := h.rec.State(upto, keep)
	if err != nil {
		return err
	}
	defer rec.Close()
	lo, _, hi := h.bounds(upto)
	v, k, err := h.expect(rec, lo, hi)
	if err != nil {
		return err
	}
	return h.goOn(v, rec, rnd, k)
}

// goOn uses a recovered volume: a few operations, close, open, compare.
func (h *history) goOn(v *meta.Volume, rec *store.Recorder, rnd *rand.Rand, k int) error {
	if rnd.IntN(4) > 0 {
		if err := v.Abandon(); err != nil {
			return err
		}
		return h.check(rec)
	}
	// Inodes that came and went between two operations leave no trace but in
	// the next number.
	numbers := map[uint64]bool{}
	for j, d := range h.dumps {
		numbers[h.models[j].nextIno] = d == h.dumps[k] || numbers[h.models[j].nextIno]
	}
	m := &model{meta.RootIno, h.models[k].nodes, h.models[k].nextIno}
	g := &generator{rnd: rnd, seeds: uint64(rnd.Uint32()) << 20}
	for i := range 3 {
		o := g.next(m)
		got := o.run(v, caller(1000+i))
		if o.newInode() && numbers[got.value] {
			m.nextIno, numbers = got.value, nil
		}
		if o.kind == "copy" && got.err == nil {
			o.length = min(o.length, int64(got.value))
		}
		var want outcome
		if m, want = o.apply(m); !sameOutcome(o, got, want) {
			v.Abandon()
			return fmt.Errorf("after recovery with %d operations: %v answered %v, want %v", k, o, got, want)
		}
	}
	if err := v.Close(context.Background()); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	v, err := h.reopen(rec)
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	if err := errors.Join(compare(v, m.dump()), v.Abandon()); err != nil {
		return fmt.Errorf("opened again: %w", err)
	}
	return h.check(rec)
}

func (h *history) processCrash(rnd *rand.Rand, upto int) error {
	rec, v, k, err := h.killed(upto)
	if err != nil {
		return err
	}
	defer rec.Close()
	return h.goOn(v, rec, rnd, k)
}

// killed is the volume as the next process finds it when one dies, and how many
// operations it has. The caller closes rec.
func (h *history) killed(upto int) (rec *store.Recorder, v *meta.Volume, k int, err error) {
	rec, err = h.rec.Killed(upto)
	if err != nil {
		return nil, nil, 0, err
	}
	_, answered, hi := h.bounds(upto)
	if v, k, err = h.expect(rec, answered, hi); err != nil {
		rec.Close()
	}
	return rec, v, k, err
}

// processThenHost: the process dies, another one recovers and perhaps
// checkpoints, then the host crashes: nothing the first one synced may be
// lost, and nothing the second one did.
func (h *history) processThenHost(rnd *rand.Rand, upto int) error {
	rec, err := h.rec.Killed(upto)
	if err != nil {
		return err
	}
	defer rec.Close()
	lo, answered, hi := h.bounds(upto)
	from := rec.Len()
	v, k, err := h.expect(rec, answered, hi)
	if err != nil {
		return err
	}
	opened := rec.Len()
	switch rnd.IntN(3) {
	case 0:
		err = v.Sync(context.Background())
	case 1:
		err = v.Checkpoint()
	case 2:
		opened = rec.Len() + 1<<30 // nothing more is promised
	}
	if err = errors.Join(err, v.Abandon()); err != nil {
		return err
	}
	return h.secondCrash(rnd, rec, from, opened, lo, hi, k)
}

// hostTwice: the host crashes, and again while or after the volume recovers.
func (h *history) hostTwice(rnd *rand.Rand, upto int) error {
	rec, err := h.rec.State(upto, keeps[rnd.IntN(len(keeps))].make(rnd))
	if err != nil {
		return err
	}
	defer rec.Close()
	lo, _, hi := h.bounds(upto)
	v, k, err := h.expect(rec, lo, hi)
	if err != nil {
		return fmt.Errorf("first crash: %w", err)
	}
	if rnd.IntN(2) == 0 {
		err = v.Checkpoint()
	}
	if err = errors.Join(err, v.Abandon()); err != nil {
		return err
	}
	// What was on the disk at the first crash still is.
	return h.secondCrash(rnd, rec, 0, 0, k, k, k)
}

// secondCrash crashes the host at some event between from and the end of a
// second life; at the end, and if promised was reached, k operations are safe.
func (h *history) secondCrash(rnd *rand.Rand, rec *store.Recorder, from, promised, lo, hi, k int) error {
	end := rec.Len()
	at := from + rnd.IntN(end-from+1)
	if rnd.IntN(3) == 0 {
		at = end
	}
	if at == end && at >= promised {
		lo = k
	}
	again, err := rec.State(at, keeps[rnd.IntN(len(keeps))].make(rnd))
	if err != nil {
		return err
	}
	defer again.Close()
	v, k, err := h.expect(again, lo, hi)
	if err != nil {
		return fmt.Errorf("second crash, at event %d of %d to %d: %w", at, from, end, err)
	}
	return h.goOn(v, again, rnd, k)
}

// resent: the process dies, and the request it was working on, or has just
// answered, is delivered again. It must be applied once.
func (h *history) resent(rnd *rand.Rand, upto int) error {
	_, _, hi := h.bounds(upto)
	last := hi - 1
	if last < 0 {
		return nil
	}
	var clock opClock
	clock.set(h.steps[last].op.when)
	next := *h
	next.cfg.Now = clock.now
	rec, v, k, err := next.killed(upto)
	if err != nil {
		return err
	}
	defer rec.Close()
	defer v.Abandon()
	o := h.steps[last].op
	if o.kind == "forget" || o.kind == "sync" {
		return nil
	}
	_, want := o.apply(h.models[last])
	if want.err != nil {
		return nil // an error is not remembered: nothing was applied
	}
	if err := reclaim(v, h.models[last], h.models[hi]); err != nil {
		return err
	}
	got, dump := o.run(v, caller(last)), h.dumps[hi]
	if o.kind == "copy" && k == last && got.err == nil && got.value > 0 && int64(got.value) < o.length {
		// It had not been applied, and data that has moved into segments in the
		// meantime is copied by whole pages: less at a time.
		o.length = int64(got.value)
		var m *model
		m, want = o.apply(h.models[last])
		dump = m.dump()
	}
	if !sameOutcome(o, got, want) {
		return fmt.Errorf("sent again, %v answered %v, want %v", o, got, want)
	}
	if err := compare(v, dump); err != nil {
		return fmt.Errorf("sent again, %v: %w", o, err)
	}
	return nil
}

// crashStates is how many states a test tries: a tenth of the usual number
// under the race detector.
func crashStates(t *testing.T, usual int) int {
	t.Helper()
	s := os.Getenv("CMKFS_CRASH_STATES")
	if s == "" && race.Detector {
		return usual / 10
	}
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// firstSeed is where random histories begin: CMKFS_CRASH_SEED, or 1.
func firstSeed() uint64 {
	first, _ := strconv.ParseUint(os.Getenv("CMKFS_CRASH_SEED"), 10, 64)
	return max(first, 1)
}

// TestVolume_CrashExplorer tries crashes at every event of random histories.
// CMKFS_CRASH_STATES says how many states to try.
func TestVolume_CrashExplorer(t *testing.T) {
	budget := crashStates(t, 20_000)
	dir := shm(t)
	tried := 0
	for seed := firstSeed(); tried < budget && !t.Failed(); seed++ {
		tried += explore(t, dir, seed, 40)
	}
	t.Logf("%d states", tried)
}

// explore tries every experiment at every event of one history.
func explore(t *testing.T, dir string, seed uint64, ops int) int {
	t.Helper()
	h := play(t, dir, seed, ops)
	defer h.rec.Close()
	end := h.rec.Len()
	type job struct {
		upto int
		c    crash
	}
	jobs := make(chan job)
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for j := range jobs {
				rnd := rand.New(rand.NewPCG(seed, uint64(j.upto)))
				watchdog := time.AfterFunc(time.Minute, func() {
					panic(fmt.Sprintf("seed %d, event %d of %d, crash of %s: it hangs", seed, j.upto, end, j.c.name))
				})
				err := j.c.run(h, rnd, j.upto)
				watchdog.Stop()
				if err != nil && failed.Add(1) < 4 {
					t.Errorf("seed %d, event %d of %d, crash of %s: %v", seed, j.upto, end, j.c.name, err)
				}
			}
		})
	}
	n := 0
	all := experiments()
	rnd := rand.New(rand.NewPCG(seed, 1))
	for upto := h.begin; upto <= end && failed.Load() == 0; upto++ {
		for _, i := range rnd.Perm(len(all))[:4] {
			jobs <- job{upto, all[i]}
			n++
		}
	}
	close(jobs)
	wg.Wait()
	return n
}
