package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/keyagent"
	"cmkfs/supervisor/api"
)

// acct is one account of a running daemon.
type acct struct {
	s     *Supervisor
	name  string
	audit *account.Audit

	// changes is held for writing while the account's record is being changed,
	// for reading while a volume is made under one of its keys.
	changes sync.RWMutex
	// moving is held while volumes are moved from one key to another, which may
	// take long, and while the account gets another key.
	moving     sync.Mutex
	unfinished chan struct{}   // a move was left unfinished; holds one
	closing    context.Context // ends when the account is closed
	stopMoves  context.CancelFunc
	mover      sync.WaitGroup // finishMoves

	volumes sync.Mutex // held while a volume's record is read, changed and written

	follower follower

	mu struct {
		sync.Mutex
		record     *account.Account // replaced, never modified
		runner     *account.Runner  // nil = the account has no key yet
		stopRunner func()
		opening    map[*opening]bool
		stranger   string // the principal id that answered the last check, if it was not the account's
		giveWay    func() // ends the move that the daemon resumed by itself; nil = there is none
	}
}

// opening is a mount whose worker may have a key although the volume is not
// among the mounted ones yet.
type opening struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// loadAccount starts an account that is in the state directory.
func (s *Supervisor) loadAccount(name string) (*acct, error) {
	record, err := s.dir.Account(name)
	if err != nil {
		return nil, err
	}
	stored, err := s.dir.LoadLease(name)
	if err != nil {
		return nil, err
	}
	audit, err := s.dir.OpenAudit(name, s.log)
	if err != nil {
		return nil, err
	}
	audit.Replaced(record)
	a := &acct{s: s, name: name, audit: audit, unfinished: make(chan struct{}, 1)}
	a.closing, a.stopMoves = context.WithCancel(context.Background())
	a.mu.record = record
	a.mu.opening = map[*opening]bool{}
	s.mu.Lock()
	s.mu.accounts[name] = a
	s.mu.Unlock()
	a.startRunner(stored)
	a.mover.Go(a.finishMoves)
	return a, nil
}

// account returns a running account.
func (s *Supervisor) account(name string) (*acct, error) {
	if err := account.CheckName("account", name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	a := s.mu.accounts[name]
	s.mu.Unlock()
	if a == nil {
		_, err := s.dir.Account(name) // says what is wrong
		if err == nil {
			err = fmt.Errorf("account %s could not be loaded when the daemon started; see its log", name)
		}
		return nil, err
	}
	return a, nil
}

// accounts returns all running accounts, sorted by name.
func (s *Supervisor) accounts() []*acct {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*acct
	for _, name := range slices.Sorted(maps.Keys(s.mu.accounts)) {
		all = append(all, s.mu.accounts[name])
	}
	return all
}

func (a *acct) record() *account.Account {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.record
}

// runner returns the lease's runner; nil while the account has no key.
func (a *acct) runner() *account.Runner {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.runner
}

// save stores a changed record. The caller holds changes.
func (a *acct) save(r *account.Account) error {
	if err := a.s.dir.SaveAccount(r); err != nil {
		return err
	}
	a.mu.Lock()
	a.mu.record = r
	a.mu.Unlock()
	a.audit.Replaced(r) // a crash before this leaves it to the next start
	return nil
}

// createAccount makes an account with a platform-managed key.
func (s *Supervisor) createAccount(ctx context.Context, r api.CreateAccount) (*account.Account, error) {
	s.creating.Lock() // two with one name
	defer s.creating.Unlock()
	if err := account.CheckName("account", r.Name); err != nil {
		return nil, err
	}
	if _, err := s.dir.Account(r.Name); err == nil {
		return nil, fmt.Errorf("account %s: %w", r.Name, account.ErrExist)
	}
	key, err := s.platformKey()
	if err != nil {
		return nil, err
	}
	var calls []keyagent.Call // there is no log yet to write them to
	agent := s.agent.Observed(func(c keyagent.Call) { calls = append(calls, c) })
	record, err := account.New(ctx, r.Name, r.Location, r.Tags, key, keys{agent})
	if err != nil {
		return nil, err
	}
	if err := s.dir.CreateAccount(record); err != nil {
		return nil, err
	}
	a, err := s.loadAccount(r.Name)
	if err != nil {
		return nil, err
	}
	a.event(account.Event{Kind: account.AuditAccountCreated})
	for _, c := range calls {
		a.keyCall(c, "")
	}
	return record, nil
}

// deleteAccount removes an account without volumes.
func (s *Supervisor) deleteAccount(name string) error {
	a, err := s.account(name)
	if err != nil {
		return err
	}
	_, end, err := a.beginMove(context.Background())
	if err != nil {
		return err
	}
	err = a.deleteFolder()
	end()
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.mu.accounts, name)
	s.mu.Unlock()
	a.close()
	return nil
}

func (a *acct) deleteFolder() error {
	a.changes.Lock()
	defer a.changes.Unlock()
	return a.s.dir.DeleteAccount(a.name)
}

// update changes an account. A key that cannot be used changes nothing.
func (a *acct) update(ctx context.Context, change account.Change) (*account.Account, error) {
	if change.Key != nil || change.Identity != nil {
		var end func()
		var err error
		if ctx, end, err = a.beginMove(ctx); err != nil {
			return nil, err // it would take away the key that volumes are moving to
		}
		defer end()
	}
	if change.Key != nil && change.Key.Source == hsm.SourcePlatform && a.record().AEKFor(hsm.SourcePlatform) == nil {
		// After a transition a new one is needed, if no volume forbids it.
		platform, err := a.s.platformKey()
		if err != nil {
			return nil, err
		}
		change.Key = &platform
	}
	a.changes.Lock()
	defer a.changes.Unlock()
	old := a.record()
	agent := a.agent("")
	if change.Identity != nil {
		// Whose tokens the other agent still has may be out of date.
		agent = agent.Another()
		defer agent.Close()
	}
	record, err := old.Changed(ctx, change, a.used, keys{agent})
	if err != nil {
		return nil, err
	}
	if err := a.save(record); err != nil {
		return nil, err
	}
	current := record.Current()
	a.keyEvent(account.UpdatedEvent(old, record))
	if current.ID != old.Current().ID {
		a.startRunner(account.Lease{}) // another key, another lease
	} else if run := a.runner(); run != nil {
		run.SetPolicy(record.Policy)
	}
	return record, nil
}

// used says whether a volume's key is sealed under an account encryption key. A
// volume whose record was lost counts: no key must be lost with it.
func (a *acct) used(aekID string) (bool, error) {
	names, err := a.s.dir.Volumes(a.name)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		v, err := a.s.dir.Volume(a.name, n)
		if err != nil || v.Needs(aekID) {
			return true, nil
		}
	}
	return false, nil
}

// close ends the account's runner and closes its log. Its volumes are unmounted.
func (a *acct) close() {
	a.endMoves()
	a.mu.Lock()
	stop := a.mu.stopRunner
	a.mu.stopRunner, a.mu.runner = nil, nil
	a.mu.Unlock()
	if stop != nil {
		stop()
	}
	a.follower.wait()
	if err := a.audit.Close(); err != nil {
		a.s.log.Error("close the audit log", "account", a.name, "err", err)
	}
}

// endMoves gives up the move of keys that is under way and lets none begin.
func (a *acct) endMoves() {
	a.stopMoves()
	a.mover.Wait()
	a.moving.Lock()
	defer a.moving.Unlock()
}

// suspendAccount is the operator's lock of all volumes.
func (a *acct) suspendAll(ctx context.Context) error {
	run := a.runner()
	if run == nil {
		return api.Errorf(api.CodeInvalid, fmt.Sprintf("account %s has no key and no volumes yet; there is nothing to suspend", a.name))
	}
	return run.Suspend(ctx)
}

// restoreAll is the operator's wish for access to all volumes.
func (a *acct) restoreAll(ctx context.Context) error {
	run := a.runner()
	if run == nil {
		return nil // no key, so no volume
	}
	for _, m := range a.mounted() {
		m.hold(false)
	}
	if err := run.Restore(ctx); err != nil {
		return err
	}
	// Volumes that an operator had suspended one by one while the lease was
	// good are not the runner's affair.
	return a.restoreMounted(ctx)
}

// restoreMounted starts a worker for every mounted volume that nobody holds
// back. It returns the errors of keys only; what else a volume fails for is
// that volume's affair and shown by its status.
func (a *acct) restoreMounted(ctx context.Context) error {
	var wait sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, m := range a.mounted() {
		if m.held() {
			continue
		}
		wait.Go(func() {
			err := m.call(ctx, command{kind: cmdRestore})
			if err == nil {
				return
			}
			a.s.log.Warn("access to a volume could not be restored", "account", a.name, "vol", m.name, "err", err)
			if isKeyError(err) || errors.Is(err, context.Canceled) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
