// Package loadtest proves that something can be done to a mounted volume
// without programs noticing it. It works steadily on the volume while a
// function runs and looks at every single operation: whether it failed, whether
// it gave the right data, and how long it took.
//
// A busy machine delays operations by itself, so the slowest one is held
// against the slowest of the same load on the same volume while nothing was
// done to it, and of the same load on a plain directory meanwhile.
package loadtest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Limit is how much slower than in quiet times no operation may be.
const Limit = 100 * time.Millisecond

const (
	attempts = 3                // of a proof, before slowness counts
	margin   = time.Second      // of load before the function, and after it as part of it
	leastOps = 100              // fewer while the function ran prove nothing
	hangs    = 60 * time.Second // an operation that takes longer is not waited for
)

// Window is what a load saw during some time.
type Window struct {
	Operations int
	Slowest    time.Duration
	SlowestOp  string
}

func (w Window) String() string {
	return fmt.Sprintf("%d operations, the slowest %v (%s)", w.Operations, w.Slowest.Round(time.Microsecond), w.SlowestOp)
}

// Report is what a load saw before, during and after a function.
type Report struct {
	Quiet   Window // the volume before and after
	During  Window // the volume while the function ran and a second longer
	Control Window // a plain directory all the time
	Failed  error  // the operations that failed or gave wrong data
}

func (r Report) String() string {
	return fmt.Sprintf("during: %v; quiet: %v; plain directory: %v", r.During, r.Quiet, r.Control)
}

// ErrSlow says that an operation was slower than Limit beyond the control's.
var ErrSlow = errors.New("slow operation")

// Err says what programs would have noticed.
func (r Report) Err() error {
	switch {
	case r.Failed != nil:
		return r.Failed
	case r.During.Operations < leastOps:
		return fmt.Errorf("only %d operations were done: %w", r.During.Operations, ErrSlow)
	case r.During.Slowest > max(r.Quiet.Slowest, r.Control.Slowest)+Limit:
		return fmt.Errorf("%w: %v", ErrSlow, r)
	}
	return nil
}

// Measure works on a mounted volume, in a folder of its own that it removes
// again, while f runs. The time around it is measured too, so it takes some
// seconds more than f.
func Measure(t testing.TB, mount string, f func()) Report {
	t.Helper()
	volume, err := newLoad(mount)
	if err != nil {
		return Report{Failed: err}
	}
	control, err := newLoad(t.TempDir())
	if err != nil {
		return Report{Failed: err}
	}
	var wait sync.WaitGroup
	wait.Go(volume.run)
	wait.Go(control.run)
	end := sync.OnceFunc(func() {
		close(volume.stop)
		close(control.stop)
	})
	defer end() // also if f ends the test

	time.Sleep(margin)
	volume.enter(during)
	began := time.Now()
	f()
	time.Sleep(margin)
	volume.enter(quiet)
	// As long as f, so that what happens now and then had its chance.
	time.Sleep(min(time.Since(began), 20*time.Second))
	end()

	ended := make(chan struct{})
	go func() { wait.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(hangs):
		return Report{Failed: errors.New("an operation does not end")}
	}
	return Report{
		Quiet: volume.window(quiet), During: volume.window(during), Control: control.window(quiet),
		Failed: errors.Join(volume.end(), control.end()),
	}
}

// Prove fails the test if an operation fails in any attempt, or if in each of
// three attempts one is slow. An attempt calls Measure; n counts from 0, for
// functions that cannot be repeated as they are.
func Prove(t testing.TB, attempt func(n int) Report) {
	t.Helper()
	for n := range attempts {
		r := attempt(n)
		err := r.Err()
		if err == nil {
			t.Logf("under load: %v", r)
			return
		}
		if !errors.Is(err, ErrSlow) {
			t.Fatalf("under load: %v", err)
		}
		t.Logf("attempt %d: %v", n+1, err)
	}
	t.Errorf("in each of %d attempts an operation was more than %v slower than without", attempts, Limit)
}
