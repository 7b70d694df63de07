package account

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"cmkfs/hsm"
)

// Actions is what the runner needs from the supervisor. The runner calls
// Suspend and Restore one at a time, Check beside them, and Extend and Record
// from its own loop, which waits for them: they must be quick and must not
// call the runner.
type Actions interface {
	// Check asks the customer's key to decrypt the stored account encryption
	// key. It honours the context and has a deadline of its own.
	Check(ctx context.Context) (hsm.Info, error)
	// Suspend drains and ends the workers. When it returns none is left,
	// whatever the context says; an error is recorded, no more.
	Suspend(ctx context.Context, e Effect) error
	// Restore starts the workers of all volumes that are mounted. It is called
	// again after a failure or when all run already, and then does what is
	// missing. Only a key that is not available is an error; a volume that
	// fails for a reason of its own is that volume's affair.
	Restore(ctx context.Context) error
	// Extend tells the workers how long from now they may hold their key.
	Extend(left time.Duration)
	// Record stores a lease that has changed visibly. cause is the event.
	Record(from, to Lease, cause LeaseEvent)
}

// Runner performs what the state machine of one account decides.
type Runner struct {
	actions Actions
	now     func() time.Time
	events  chan posted
	replan  chan struct{}  // the policy has changed; holds one
	effects sync.WaitGroup // goroutines of performed effects; Run waits for them

	// Owned by the goroutine of Run, so without a lock.
	working     chan struct{}      // closed when the last Suspend or Restore has returned
	stopRestore context.CancelFunc // ends a Restore that a Suspend overtakes

	mu struct {
		sync.Mutex
		lease   Lease
		policy  Policy
		lastErr error         // of the last failed check or restore
		changed chan struct{} // closed at the next change of lease
	}
}

type posted struct {
	ev      LeaseEvent
	err     error         // behind a failure event
	applied chan struct{} // closed when the event was applied; may be nil
}

// NewRunner prepares a runner. stored is the lease as Record was last given
// it, zero for a new account; clock is NewClock's.
func NewRunner(stored Lease, p Policy, a Actions, clock func() time.Time) *Runner {
	r := &Runner{actions: a, now: clock, events: make(chan posted), replan: make(chan struct{}, 1), working: make(chan struct{}), stopRestore: func() {}}
	close(r.working)
	r.mu.policy, r.mu.changed = p, make(chan struct{})
	r.mu.lease, _ = Next(stored, LeaseEvent{Kind: EventStart}, clock(), p)
	return r
}

// longestWait bounds the wait for the next moment to act: a timer stands still
// while the host sleeps.
const longestWait = 5 * time.Second

// Run performs until ctx ends, then waits for what is under way. Ending does
// not suspend: the caller closes the volumes. It is called once.
func (r *Runner) Run(ctx context.Context) {
	defer r.effects.Wait()
	defer func() { r.stopRestore() }()
	r.apply(ctx, posted{ev: LeaseEvent{Kind: EventStart}})
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if wake := r.Lease().Wake(); !wake.IsZero() {
			timer.Reset(min(wake.Sub(r.now()), longestWait))
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			r.apply(ctx, posted{ev: LeaseEvent{Kind: EventTick}})
		case <-r.replan:
			r.apply(ctx, posted{ev: LeaseEvent{Kind: EventPolicy}})
		case p := <-r.events:
			r.apply(ctx, p)
		}
	}
}

// Lease returns the lease as it is now.
func (r *Runner) Lease() Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.lease
}

// Left returns how long from now volumes may stay open; it is not positive if
// they may not.
func (r *Runner) Left() time.Duration {
	l := r.Lease()
	if !l.Open() {
		return 0
	}
	return l.Expires.Sub(r.now())
}

// Policy returns the policy in force.
func (r *Runner) Policy() Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.policy
}

// SetPolicy changes the policy. The present lease is counted anew with it.
func (r *Runner) SetPolicy(p Policy) {
	r.mu.Lock()
	r.mu.policy = p
	r.mu.Unlock()
	select {
	case r.replan <- struct{}{}:
	default: // the loop has not looked at the last change yet
	}
}

// Suspend is the operator's lock: it returns when no worker is left.
func (r *Runner) Suspend(ctx context.Context) error {
	if err := r.post(ctx, LeaseEvent{Kind: EventOperatorSuspend, Text: operatorText}); err != nil {
		return err
	}
	_, err := r.wait(ctx, func(l Lease) bool { return l.State != StateSuspending })
	return err
}

// Restore is the operator's wish for access. It returns nil when volumes are
// open, and otherwise why they are not.
func (r *Runner) Restore(ctx context.Context) error {
	if err := r.post(ctx, LeaseEvent{Kind: EventOperatorRestore}); err != nil {
		return err
	}
	return r.settled(ctx)
}

// Settled waits until the lease is neither suspending nor restoring. It
// returns nil if volumes are or may be opened, and otherwise why they may not.
// A key that has not answered since the daemon started is asked once more:
// nothing was taken away, so nobody has to give it back.
func (r *Runner) Settled(ctx context.Context) error {
	if l := r.Lease(); l.State == StateSuspended && l.Resume {
		return r.Restore(ctx)
	}
	return r.settled(ctx)
}

func (r *Runner) settled(ctx context.Context) error {
	l, err := r.wait(ctx, func(l Lease) bool { return l.State != StateSuspending && l.State != StateRestoring })
	if err != nil {
		return err
	}
	if l.State == StateSuspended {
		return &SuspendedError{Lease: l, Err: r.lastError()}
	}
	return nil
}

// SuspendedError says that an account is suspended, and why.
type SuspendedError struct {
	Lease Lease
	Err   error // the last failed check or restore; nil = none since the daemon started
}

func (e *SuspendedError) Error() string {
	return "access is suspended: " + cmp.Or(e.Lease.Reason, "the lease has run out")
}

func (e *SuspendedError) Unwrap() error { return e.Err }

func (r *Runner) lastError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.lease.Operator || r.mu.lease.KeyGood {
		return nil
	}
	return r.mu.lastErr
}

// post hands an event to the loop and waits until it was applied.
func (r *Runner) post(ctx context.Context, ev LeaseEvent) error {
	p := posted{ev: ev, applied: make(chan struct{})}
	select {
	case r.events <- p:
		<-p.applied
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns the first lease from now on that fits.
func (r *Runner) wait(ctx context.Context, fits func(Lease) bool) (Lease, error) {
	for {
		r.mu.Lock()
		l, changed := r.mu.lease, r.mu.changed
		r.mu.Unlock()
		if fits(l) {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return l, ctx.Err()
		}
	}
}

// apply makes one step and begins its effects.
func (r *Runner) apply(ctx context.Context, p posted) {
	r.mu.Lock()
	from := r.mu.lease
	to, effects := Next(from, p.ev, r.now(), r.mu.policy)
	if p.err != nil {
		r.mu.lastErr = p.err
	}
	r.mu.Unlock()
	// What is stored is never more permissive than what happens: a suspending
	// is recorded before it begins, an opening before the first worker starts.
	if from.State != to.State || from.Operator != to.Operator || from.Warning != to.Warning ||
		!from.KeyExpires.Equal(to.KeyExpires) || !from.CredentialExpires.Equal(to.CredentialExpires) {
		r.actions.Record(from, to, p.ev)
	}
	r.mu.Lock()
	r.mu.lease = to
	close(r.mu.changed)
	r.mu.changed = make(chan struct{})
	r.mu.Unlock()
	if p.applied != nil {
		close(p.applied)
	}
	for _, e := range effects {
		r.perform(ctx, e)
	}
}

func (r *Runner) perform(ctx context.Context, e Effect) {
	switch e.Kind {
	case EffectCheck:
		r.effects.Go(func() { r.check(ctx) })
	case EffectExtend:
		r.actions.Extend(e.Deadline.Sub(r.now()))
	case EffectSuspend:
		r.stopRestore()
		r.work(func() {
			err := r.actions.Suspend(context.WithoutCancel(ctx), e)
			ev := LeaseEvent{Kind: EventDrained}
			if err != nil {
				ev.Text = err.Error()
			}
			r.send(ctx, posted{ev: ev})
		})
	case EffectRestore:
		restoreCtx, cancel := context.WithCancel(ctx)
		r.stopRestore = cancel
		r.work(func() {
			defer cancel()
			ev := LeaseEvent{Kind: EventRestored}
			err := r.actions.Restore(restoreCtx)
			if err != nil {
				ev = checkEvent(hsm.Info{}, err, r.now(), r.now())
				ev.Kind = EventRestoreFailed
			}
			r.send(ctx, posted{ev: ev, err: err})
		})
	}
}

// work runs f after the Suspend or Restore before it.
func (r *Runner) work(f func()) {
	before, done := r.working, make(chan struct{})
	r.working = done
	r.effects.Go(func() {
		defer close(done)
		<-before
		f()
	})
}

// unanswered is after how long a check without an answer is shown.
const unanswered = 3 * time.Second

// check asks the key and reports the answer.
func (r *Runner) check(ctx context.Context) {
	asked := r.now()
	answered, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-time.After(unanswered):
			r.send(ctx, posted{ev: LeaseEvent{
				Kind: EventUnanswered, Asked: asked, Code: "NoAnswer",
				Text: fmt.Sprintf("the key has not answered for %s", unanswered),
			}})
		case <-answered:
		}
	}()
	info, err := r.actions.Check(ctx)
	close(answered)
	<-told // so that it comes before the answer
	if err == nil && info.KeyID == "" {
		// The key decrypted, but its attributes were not told this time.
		last := r.Lease()
		info.Expires, info.CredentialExpires = last.KeyExpires, last.CredentialExpires
	}
	r.send(ctx, posted{ev: checkEvent(info, err, asked, time.Now()), err: err})
}

// send hands an effect's event to the loop, if there is one.
func (r *Runner) send(ctx context.Context, p posted) {
	select {
	case r.events <- p:
	case <-ctx.Done():
	}
}
