package account_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

// host is the supervisor's part: volumes that are open or not, and a key whose
// answer the test sets. It polices what the runner promises.
type host struct {
	t  *testing.T
	mu struct {
		sync.Mutex
		key      error         // what a check answers
		slow     time.Duration // how long it takes
		restore  error         // what a restore answers
		open     bool
		working  bool // a Suspend or Restore is under way
		deadline time.Time
		log      []account.State
	}
}

func (h *host) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *host) Check(ctx context.Context) (hsm.Info, error) {
	h.mu.Lock()
	err, slow := h.mu.key, h.mu.slow
	h.mu.Unlock()
	select {
	case <-time.After(slow):
		return hsm.Info{}, err
	case <-ctx.Done():
		return hsm.Info{}, ctx.Err()
	}
}

func (h *host) work(name string) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.working {
		h.t.Errorf("%s beside another Suspend or Restore", name)
	}
	h.mu.working = true
	return func() { h.set(func() { h.mu.working = false }) }
}

func (h *host) Suspend(_ context.Context, e account.Effect) error {
	defer h.work("suspend")()
	time.Sleep(50 * time.Millisecond)
	h.set(func() { h.mu.open = false })
	return nil
}

func (h *host) Restore(ctx context.Context) error {
	defer h.work("restore")()
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.open = h.mu.restore == nil
	return h.mu.restore
}

func (h *host) Extend(left time.Duration) { h.set(func() { h.mu.deadline = time.Now().Add(left) }) }

func (h *host) Record(_, to account.Lease, _ account.LeaseEvent) {
	h.set(func() { h.mu.log = append(h.mu.log, to.State) })
}

func (h *host) isOpen() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.open
}

// run runs f in a bubble with a fake clock and a runner that is online.
func run(t *testing.T, p account.Policy, f func(*testing.T, *host, *account.Runner)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t}
		r := account.NewRunner(account.Lease{}, p, h, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.Run(ctx) })
		if err := r.Settled(ctx); err != nil || !h.isOpen() || r.Lease().State != account.StateOnline {
			t.Fatalf("start: %v %+v", err, r.Lease())
		}
		f(t, h, r)
		cancel()
		wg.Wait()
	})
}

var (
	errDenied = &hsm.Error{Kind: hsm.KindDenied, Reason: "KeyDisabled", Message: "the key is disabled"}
	errGone   = &hsm.Error{Kind: hsm.KindUnreachable, Reason: "Timeout"}
)

func TestRunner_Outage_SuspendsAtTheDeadline(t *testing.T) {
	run(t, account.DefaultPolicy(), func(t *testing.T, h *host, r *account.Runner) {
		time.Sleep(90 * time.Second) // a healthy check in between
		last := r.Lease().LastSuccess
		h.set(func() { h.mu.key = errGone })
		time.Sleep(time.Until(last.Add(10*time.Minute - time.Second)))
		if r.Lease().State != account.StateDegraded || !h.isOpen() {
			t.Errorf("before the deadline: %+v", r.Lease())
		}
		if !h.mu.deadline.Equal(last.Add(10 * time.Minute)) {
			t.Errorf("the workers were told %v, want %v", h.mu.deadline, last.Add(10*time.Minute))
		}
		time.Sleep(2 * time.Second)
		if r.Lease().State != account.StateSuspended || h.isOpen() {
			t.Errorf("after the deadline: %+v", r.Lease())
		}
		h.set(func() { h.mu.key = nil })
		time.Sleep(time.Hour)
		if r.Lease().State != account.StateSuspended || !r.Lease().KeyGood {
			t.Errorf("manual recovery: %+v", r.Lease())
		}
		if err := r.Restore(t.Context()); err != nil || !h.isOpen() {
			t.Errorf("restore: %v %+v", err, r.Lease())
		}
		want := []account.State{account.StateRestoring, account.StateOnline, account.StateDegraded, account.StateSuspending, account.StateSuspended, account.StateRestoring, account.StateOnline}
		if !slices.Equal(h.mu.log[len(h.mu.log)-6:], want[1:]) {
			t.Errorf("recorded %v, want %v", h.mu.log, want)
		}
	})
}

func TestRunner_HungCheck_SuspendsAtTheDeadline(t *testing.T) {
	run(t, account.DefaultPolicy(), func(t *testing.T, h *host, r *account.Runner) {
		h.set(func() { h.mu.slow = 24 * time.Hour })
		time.Sleep(11 * time.Minute)
		if l := r.Lease(); l.State != account.StateSuspended || l.Code != "LeaseExpired" || h.isOpen() {
			t.Errorf("%+v", l)
		}
	})
}

// TestRunner_HungCheck_IsShown: a check without an answer is shown long before
// the lease ends, and an answer, late as it is, ends that.
func TestRunner_HungCheck_IsShown(t *testing.T) {
	run(t, account.DefaultPolicy(), func(t *testing.T, h *host, r *account.Runner) {
		h.set(func() { h.mu.slow = 5 * time.Second })
		time.Sleep(62 * time.Second) // a check began two seconds ago
		if l := r.Lease(); l.State != account.StateOnline {
			t.Errorf("too early: %+v", l)
		}
		time.Sleep(2 * time.Second)
		l := r.Lease()
		if l.State != account.StateDegraded || l.Cause != account.EventUnreachable || l.Reason == "" || !h.isOpen() {
			t.Errorf("while it hangs: %+v", l)
		}
		time.Sleep(2 * time.Second)
		if l := r.Lease(); l.State != account.StateOnline || l.Reason != "" || !h.isOpen() {
			t.Errorf("after the answer: %+v", l)
		}
		h.set(func() { h.mu.key, h.mu.slow = errDenied, 5*time.Second })
		time.Sleep(66 * time.Second)
		if l := r.Lease(); l.State != account.StateDegraded || l.Denials != 1 || l.Code != "KeyDisabled" {
			t.Errorf("after a late denial: %+v", l)
		}
	})
}

func TestRunner_Denied_SuspendsWhenConfirmed(t *testing.T) {
	run(t, account.DefaultPolicy(), func(t *testing.T, h *host, r *account.Runner) {
		h.set(func() { h.mu.key = errDenied })
		time.Sleep(61 * time.Second)
		if r.Lease().State != account.StateDegraded {
			t.Errorf("after one denial: %+v", r.Lease())
		}
		time.Sleep(11 * time.Second)
		if r.Lease().State != account.StateSuspended || h.isOpen() {
			t.Errorf("after two: %+v", r.Lease())
		}
		var s *account.SuspendedError
		var k *hsm.Error
		if err := r.Restore(t.Context()); !errors.As(err, &s) || !errors.As(err, &k) || k.Kind != hsm.KindDenied {
			t.Errorf("restore without the key: %v", err)
		}
	})
}

func TestRunner_Operator_LocksAndRestores(t *testing.T) {
	p := account.DefaultPolicy()
	p.Recovery = account.RecoveryAutomatic
	run(t, p, func(t *testing.T, h *host, r *account.Runner) {
		for range 3 {
			for range 2 { // idempotent
				if err := r.Suspend(t.Context()); err != nil || h.isOpen() || r.Lease().State != account.StateSuspended {
					t.Fatalf("suspend: %v %+v", err, r.Lease())
				}
			}
			time.Sleep(time.Hour)
			if h.isOpen() {
				t.Fatal("a check gave access back against the operator")
			}
			for range 2 {
				if err := r.Restore(t.Context()); err != nil || !h.isOpen() {
					t.Fatalf("restore: %v %+v", err, r.Lease())
				}
			}
		}
	})
}

func TestRunner_SuspendOvertakesRestore(t *testing.T) {
	run(t, account.DefaultPolicy(), func(t *testing.T, h *host, r *account.Runner) {
		if err := r.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := r.Restore(t.Context()); err == nil {
				t.Error("the overtaken restore reported success")
			}
		})
		time.Sleep(30 * time.Millisecond) // the restore takes 100
		if err := r.Suspend(t.Context()); err != nil || h.isOpen() || r.Lease().State != account.StateSuspended {
			t.Errorf("suspend: %v %+v", err, r.Lease())
		}
		wg.Wait()
	})
}

func TestRunner_RestoreFails_ClosesAgain(t *testing.T) {
	run(t, account.DefaultPolicy(), func(t *testing.T, h *host, r *account.Runner) {
		if err := r.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.set(func() { h.mu.restore = errDenied })
		var k *hsm.Error
		if err := r.Restore(t.Context()); !errors.As(err, &k) || h.isOpen() {
			t.Errorf("restore: %v", err)
		}
		h.set(func() { h.mu.restore = nil })
		if err := r.Restore(t.Context()); err != nil || !h.isOpen() {
			t.Errorf("second restore: %v %+v", err, r.Lease())
		}
	})
}

func TestRunner_Automatic_ComesBack(t *testing.T) {
	p := account.DefaultPolicy()
	p.Recovery = account.RecoveryAutomatic
	run(t, p, func(t *testing.T, h *host, r *account.Runner) {
		h.set(func() { h.mu.key = errDenied })
		time.Sleep(5 * time.Minute)
		if h.isOpen() {
			t.Fatal("still open")
		}
		h.set(func() { h.mu.key = nil })
		time.Sleep(15 * time.Second)
		if !h.isOpen() || r.Lease().State != account.StateOnline {
			t.Errorf("%+v", r.Lease())
		}
	})
}

func TestRunner_Settled_AsksAgainAfterAnOutageAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t}
		h.mu.key = errGone
		r := account.NewRunner(account.Lease{}, account.DefaultPolicy(), h, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.Run(ctx) })
		var k *hsm.Error
		if err := r.Settled(ctx); !errors.As(err, &k) || h.isOpen() {
			t.Errorf("without the key: %v", err)
		}
		h.set(func() { h.mu.key = nil })
		began := time.Now()
		if err := r.Settled(ctx); err != nil || !h.isOpen() || time.Since(began) > time.Second {
			t.Errorf("with it: %v after %s", err, time.Since(began))
		}
		cancel()
		wg.Wait()
	})
}

func TestRunner_SetPolicy_CountsAnew(t *testing.T) {
	p := account.DefaultPolicy()
	p.CheckInterval, p.OutageGrace = account.Duration(5*time.Hour), account.Duration(10*time.Hour)
	run(t, p, func(t *testing.T, h *host, r *account.Runner) {
		h.set(func() { h.mu.key = errGone })
		r.SetPolicy(account.DefaultPolicy())
		time.Sleep(9 * time.Minute)
		if l := r.Lease(); l.State != account.StateDegraded || !h.isOpen() {
			t.Errorf("%+v", l)
		}
		time.Sleep(2 * time.Minute)
		if l := r.Lease(); l.State != account.StateSuspended || h.isOpen() {
			t.Errorf("%+v", l)
		}
	})
}

// TestRunner_SetPolicy_Shorter: a grace that would be over, or nearly, counts from
// the change, so that the key can be asked; the old deadline stays if it is sooner.
func TestRunner_SetPolicy_Shorter(t *testing.T) {
	long := account.DefaultPolicy()
	long.CheckInterval, long.OutageGrace = account.Duration(5*time.Hour), account.Duration(10*time.Hour)
	gone := func(h *host) { h.set(func() { h.mu.key = errGone }) }
	after := func(d time.Duration) func(*host) { return func(*host) { time.Sleep(d) } }
	for _, c := range []struct {
		name   string
		before []func(*host) // the change to ten minutes
		after  []func(*host)
		open   time.Duration // from then on; 0 = always
	}{
		{"good", []func(*host){after(time.Hour)}, nil, 0},
		{"good, nearly over", []func(*host){after(10*time.Minute - 50*time.Millisecond)}, nil, 0},
		{"good until then", []func(*host){after(time.Hour), gone}, nil, 10 * time.Minute},
		{"changed again in the outage", []func(*host){after(time.Hour), gone}, []func(*host){after(5 * time.Minute)}, 5 * time.Minute},
		{"gone for long", []func(*host){gone, after(6 * time.Hour)}, nil, 10 * time.Minute},
		{"gone for nearly as long as may be", []func(*host){gone, after(10*time.Hour - time.Minute)}, nil, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, long, func(t *testing.T, h *host, r *account.Runner) {
				for _, step := range c.before {
					step(h)
				}
				r.SetPolicy(account.DefaultPolicy())
				for _, step := range c.after {
					step(h)
					r.SetPolicy(account.DefaultPolicy())
				}
				if c.open == 0 {
					time.Sleep(time.Hour)
					if l := r.Lease(); l.State != account.StateOnline || !h.isOpen() {
						t.Errorf("%+v", l)
					}
					return
				}
				time.Sleep(c.open - 10*time.Second)
				if l := r.Lease(); l.State != account.StateDegraded || !h.isOpen() {
					t.Errorf("before: %+v", l)
				}
				time.Sleep(20 * time.Second)
				if l := r.Lease(); l.State != account.StateSuspended || h.isOpen() {
					t.Errorf("after: %+v", l)
				}
			})
		})
	}
}

// TestRunner_Sleep_CountsAgainstTheLease: the host sleeps beyond the deadline.
func TestRunner_Sleep_CountsAgainstTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t}
		var asleep atomic.Int64 // nanoseconds that timers have not seen
		clock := func() time.Time { return time.Now().Add(time.Duration(asleep.Load())) }
		r := account.NewRunner(account.Lease{}, account.DefaultPolicy(), h, clock)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.Run(ctx) })
		if err := r.Settled(ctx); err != nil {
			t.Fatal(err)
		}
		asleep.Store(int64(time.Hour))
		if left := r.Left(); left > 0 {
			t.Errorf("%s left after an hour of sleep", left)
		}
		time.Sleep(6 * time.Second)
		if l := r.Lease(); l.State != account.StateSuspended || h.isOpen() {
			t.Errorf("%+v", l)
		}
		cancel()
		wg.Wait()
	})
}

func TestNewClock_Advances(t *testing.T) {
	clock := account.NewClock()
	before := clock()
	time.Sleep(5 * time.Millisecond)
	if d := clock().Sub(before); d < 5*time.Millisecond || d > 5*time.Second {
		t.Errorf("%s have passed", d)
	}
}

func TestDir_Lease_RoundTrip(t *testing.T) {
	d := newDir(t)
	if err := d.CreateAccount(newAccount("a")); err != nil {
		t.Fatal(err)
	}
	if l, err := d.LoadLease("a"); err != nil || l.State != "" {
		t.Errorf("none yet: %+v %v", l, err)
	}
	l := leaseIn(account.StateSuspended)
	if err := d.SaveLease("a", l); err != nil {
		t.Fatal(err)
	}
	if got, err := d.LoadLease("a"); err != nil || got.State != l.State || got.Reason != l.Reason {
		t.Errorf("read back %+v %v", got, err)
	}
	l.State = "sleeping"
	if err := d.SaveLease("a", l); err != nil {
		t.Fatal(err)
	}
	if _, err := d.LoadLease("a"); err == nil {
		t.Error("an unknown state was accepted")
	}
}

// TestRunner_Flapping: a vault that comes and goes every few seconds for hours
// does not make the volumes come and go with it.
func TestRunner_Flapping(t *testing.T) {
	p := account.DefaultPolicy()
	p.Recovery = account.RecoveryAutomatic
	for name, every := range map[string]time.Duration{"3s": 3 * time.Second, "17s": 17 * time.Second, "2m": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			run(t, p, func(t *testing.T, h *host, r *account.Runner) {
				const hours = 3
				for n := range int(hours * time.Hour / every) {
					h.set(func() {
						if h.mu.key = errDenied; n%2 == 1 {
							h.mu.key = nil
						}
					})
					time.Sleep(every)
				}
				suspensions := 0
				h.set(func() {
					for _, s := range h.mu.log {
						if s == account.StateSuspending {
							suspensions++
						}
					}
					h.mu.key = nil
				})
				if suspensions > 9*hours {
					t.Errorf("%d suspensions in %d hours", suspensions, hours)
				}
				t.Logf("%d suspensions in %d hours", suspensions, hours)
				time.Sleep(16 * time.Minute)
				if !h.isOpen() || r.Lease().State != account.StateOnline {
					t.Errorf("the key stays, and access does not come back: %+v", r.Lease())
				}
			})
		})
	}
}
