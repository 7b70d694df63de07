package supervisor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/worker"
)

// aloneLease is the lease of a volume whose key is not the one the account's
// lease rests on: a platform-managed volume in an account with a customer's
// key. Nobody takes that key away; the worker only watches its supervisor.
const aloneLease = 10 * time.Minute

// leaseActions is an account as its runner sees it.
type leaseActions struct{ *acct }

// startRunner replaces the account's lease runner. Without a key there is
// nothing to check.
func (a *acct) startRunner(stored account.Lease) {
	a.mu.Lock()
	stop := a.mu.stopRunner
	a.mu.stopRunner = nil
	a.mu.Unlock()
	if stop != nil {
		stop()
	}
	record := a.record()
	if record.Current() == nil {
		return
	}
	runner := account.NewRunner(stored, record.Policy, leaseActions{a}, account.NewClock())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runner.Run(ctx)
	}()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.runner = runner
	a.mu.stopRunner = func() { cancel(); <-ended }
}

// Check implements account.Actions.
func (l leaseActions) Check(ctx context.Context) (hsm.Info, error) {
	for {
		record := l.record()
		info, err := l.checkAll(ctx, record)
		if err != nil && l.replaced(record.LeaseKeys()...) {
			continue // the answer is about a key or an identity that was replaced meanwhile and may be refused since
		}
		if ctx.Err() == nil { // what was given up says nothing about the key
			l.audit.Checked(info, err, record.KeyParams())
		}
		if err == nil {
			l.notice(record, info)
			l.follow(info)
		}
		return info, err
	}
}

// checkAll proves every account encryption key that a volume may be under:
// there is more than one while a rotation is not finished.
func (l leaseActions) checkAll(ctx context.Context, record *account.Account) (info hsm.Info, err error) {
	for _, k := range record.LeaseKeys() {
		if info, err = l.agent("").Check(ctx, k.Key, k.ID, stored(&k)); err != nil {
			return info, err
		}
	}
	return info, nil
}

// replaced reports whether one of the keys that were asked is not the account's
// any more, or is asked for in another way.
func (a *acct) replaced(asked ...account.AEKRecord) bool {
	record := a.record()
	return slices.ContainsFunc(asked, func(k account.AEKRecord) bool {
		now := record.AEK(k.ID)
		return now == nil || !hsm.SameKeyID(now.Wrapped.KeyID, k.Wrapped.KeyID) ||
			now.Key.Azure != nil && k.Key.Azure != nil && *now.Key.Azure != *k.Key.Azure
	})
}

// Suspend implements account.Actions.
func (l leaseActions) Suspend(_ context.Context, e account.Effect) error {
	// A mount under way would have a key and not be among the mounted ones.
	l.stopOpening()
	var wait sync.WaitGroup
	for _, m := range l.mounted() {
		if !e.Operator && !l.leased(m.aek()) {
			continue
		}
		wait.Go(func() {
			// The loop answers when no worker is left, so without a deadline.
			err := m.call(context.Background(), command{
				kind: cmdSuspend, errno: errnoOf(e.Errno), reason: e.Reason,
				deadline: worker.In(l.s.cfg.DrainTimeout),
			})
			if err != nil {
				l.s.log.Warn("suspending", "account", l.name, "vol", m.name, "err", err)
			}
		})
	}
	wait.Wait()
	return nil
}

// Restore implements account.Actions.
func (l leaseActions) Restore(ctx context.Context) error { return l.restoreMounted(ctx) }

// Extend implements account.Actions.
func (l leaseActions) Extend(left time.Duration) {
	at := worker.In(left)
	for _, m := range l.mounted() {
		if l.leased(m.aek()) {
			m.renew(at)
		}
	}
}

// Record implements account.Actions.
func (l leaseActions) Record(from, to account.Lease, cause account.LeaseEvent) {
	if err := l.s.dir.SaveLease(l.name, to); err != nil {
		l.s.log.Error("the lease cannot be stored", "account", l.name, "err", err)
	}
	l.audit.Lease(from, to, cause, l.record().KeyParams())
}

// leased says whether the account's lease rests on this key. One that is not
// known, or not yet (""), counts as such.
func (a *acct) leased(aekID string) bool {
	record := a.record()
	k := record.AEK(aekID)
	return record.Current() != nil && (k == nil || k.Source == record.KeySource())
}

// lease returns until when a worker may hold a key, as worker.Now counts, or
// why it may not.
func (a *acct) lease(aekID string) (int64, error) {
	if !a.leased(aekID) {
		return worker.In(aloneLease), nil
	}
	run := a.runner()
	if run == nil {
		return 0, errors.New("the account is being closed")
	}
	left := run.Left()
	if left <= 0 {
		return 0, &account.SuspendedError{Lease: run.Lease()}
	}
	return worker.In(left), nil
}

// beginOpening notes a mount under way; Suspend cancels it. The caller calls
// end when the volume is among the mounted ones, or has no worker any more.
func (a *acct) beginOpening(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	o := &opening{cancel: cancel, done: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.opening[o] = true
	return ctx, func() {
		cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.mu.opening, o)
		close(o.done)
	}
}

func (a *acct) stopOpening() {
	a.mu.Lock()
	var all []*opening
	for o := range a.mu.opening {
		all = append(all, o)
	}
	a.mu.Unlock()
	for _, o := range all {
		o.cancel()
		<-o.done
	}
}

// errnoOf returns the errno of a name in a lease's effect.
func errnoOf(name string) syscall.Errno {
	for _, e := range []syscall.Errno{unix.ENOKEY, unix.EKEYREVOKED, unix.EKEYEXPIRED, unix.EIO} {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return unix.ENOKEY
}
