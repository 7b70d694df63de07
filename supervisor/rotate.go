package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
)

// rotateKey gives the account a new account encryption key and takes every
// volume of its key source under it. A rotation that was not finished is: a
// third key would help nobody.
func (a *acct) rotateKey(ctx context.Context, progress func(api.MovedVolume)) (api.KeyMoved, error) {
	ctx, end, err := a.beginMove(ctx)
	if err != nil {
		return api.KeyMoved{}, err
	}
	defer end()
	if err := a.settled(ctx, ""); err != nil {
		return api.KeyMoved{}, err
	}
	if r := a.record(); r.Move != nil {
		done, err := a.finishMove(ctx, progress)
		if err != nil || r.Move.Kind == account.MoveRotate && r.AEK(r.Move.To).Source == r.KeySource() {
			return done, err
		}
	}
	if err := a.startMove(func(old *account.Account) (*account.Account, error) {
		return old.Rotated(ctx, keys{a.agent("")})
	}); err != nil {
		return api.KeyMoved{}, err
	}
	return a.finishMove(ctx, progress)
}

// transition takes all volumes of the account under the customer's key.
func (a *acct) transition(ctx context.Context, progress func(api.MovedVolume)) (api.KeyMoved, error) {
	ctx, end, err := a.beginMove(ctx)
	if err != nil {
		return api.KeyMoved{}, err
	}
	defer end()
	if a.record().KeySource() == hsm.SourcePlatform {
		return api.KeyMoved{}, api.Refuse(api.CodeInvalid, hsm.NotConfigured)
	}
	if err := a.settled(ctx, ""); err != nil {
		return api.KeyMoved{}, err
	}
	if r := a.record(); r.Move == nil || r.Move.Kind != account.MoveTransition {
		if err := a.startMove((*account.Account).InTransition); err != nil {
			return api.KeyMoved{}, err
		}
	}
	return a.finishMove(ctx, progress)
}

// beginMove makes sure that one change of keys is made at a time and that it
// ends with the daemon. What the daemon does by itself gives way to a command.
func (a *acct) beginMove(ctx context.Context) (_ context.Context, end func(), err error) {
	if !a.moving.TryLock() {
		a.mu.Lock()
		giveWay := a.mu.giveWay
		a.mu.Unlock()
		if giveWay == nil {
			return nil, nil, api.Errorf(api.CodeBusy, fmt.Sprintf("account %s: another change of its keys is under way", a.name))
		}
		giveWay()
		a.moving.Lock()
	}
	if a.closing.Err() != nil {
		a.moving.Unlock()
		return nil, nil, api.Errorf(api.CodeBusy, "the daemon is shutting down")
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(a.closing, cancel)
	return ctx, func() { stop(); cancel(); a.moving.Unlock() }, nil
}

// beginResume is beginMove for the daemon itself; it does not insist.
func (a *acct) beginResume() (_ context.Context, end func(), ok bool) {
	if !a.moving.TryLock() {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(a.closing)
	a.mu.Lock()
	a.mu.giveWay = cancel
	a.mu.Unlock()
	return ctx, func() {
		a.mu.Lock()
		a.mu.giveWay = nil
		a.mu.Unlock()
		cancel()
		a.moving.Unlock()
	}, true
}

// startMove stores the move. From then on it is finished some time, also by
// another daemon.
func (a *acct) startMove(begun func(old *account.Account) (*account.Account, error)) error {
	a.changes.Lock() // waits for volumes that are being made under the old key
	defer a.changes.Unlock()
	record, err := begun(a.record())
	if err != nil {
		return err
	}
	if err := a.save(record); err != nil {
		return err
	}
	a.moveEvent(account.AuditKeyMoveBegun, *record.Move, account.Event{})
	return nil
}

// moveError says that volumes are left under the old key. Old and new keys stay
// valid, and the daemon goes on by itself.
type moveError struct {
	kind        string
	done, total int
	volume      string // the first that could not be moved; "" = no volume is to blame
	err         error
}

func (e *moveError) Error() string {
	s := fmt.Sprintf("%s is not finished, %d of %d volumes are done: ", e.kind, e.done, e.total)
	if e.volume != "" {
		s += "volume " + e.volume + ": "
	}
	return s + e.err.Error()
}

func (e *moveError) Unwrap() error { return e.err }

// finishMove moves what the move under way has left and drops the keys that no
// volume needs any more. It asks every volume, because only its superblock says
// which key it is under, and goes on after a volume that fails by itself; a key
// that cannot be had ends it.
func (a *acct) finishMove(ctx context.Context, progress func(api.MovedVolume)) (api.KeyMoved, error) {
	record := a.record()
	to := record.AEK(record.Move.To)
	done := api.KeyMoved{
		Account: a.name, Operation: record.Move.Kind, KeySource: to.Source, KeyID: to.Wrapped.KeyID, Volumes: []api.MovedVolume{},
	}
	var failed *moveError
	asked := map[string]bool{}
	for {
		left, err := a.unasked(asked)
		if err != nil {
			return done, err
		}
		if len(left) == 0 {
			break
		}
		done.Total = len(asked) + len(left)
		for _, name := range left {
			asked[name] = true
			v, err := a.moveOne(ctx, name)
			if err != nil && failed == nil {
				failed = &moveError{kind: record.Move.Kind, volume: name, err: err}
			}
			if err == nil && v.Result == "" {
				continue // it was deleted
			}
			if err == nil {
				done.Done++
			}
			v.Done, v.Total = done.Done, done.Total
			done.Volumes = append(done.Volumes, v)
			if progress != nil {
				progress(v)
			}
			if err != nil && (isKeyError(err) || isSuspended(err) || ctx.Err() != nil) {
				failed.volume = ""
				break // the next would fail likewise
			}
		}
		if failed != nil {
			failed.done, failed.total = done.Done, done.Total
			if ctx.Err() != nil {
				return done, failed // somebody goes on at once, or the next daemon does
			}
			a.moveEvent(account.AuditKeyMoveStopped, *record.Move, account.Event{Volume: failed.volume, Reason: failed.err.Error(), Detail: counts(done)})
			a.wakeMover()
			return done, failed
		}
		if finished, err := a.endMove(asked); err != nil || finished {
			if err == nil {
				a.moveEvent(account.AuditKeyMoveFinished, *record.Move, account.Event{Detail: counts(done)})
			}
			return done, err
		}
	}
	return done, nil
}

// moveEvent writes what happens to a move of keys.
func (a *acct) moveEvent(kind string, m account.KeyMove, e account.Event) {
	record := a.record()
	e.Kind = kind
	if e.Detail == nil {
		e.Detail = map[string]string{}
	}
	e.Detail["operation"], e.Detail["toAek"] = m.Kind, m.To
	if to := record.AEK(m.To); to != nil {
		e.Detail["keySource"], e.KeyParams = to.Source, record.KeyParamsOf(to.Key)
	}
	a.event(e)
}

func counts(m api.KeyMoved) map[string]string {
	return map[string]string{"done": strconv.Itoa(m.Done), "total": strconv.Itoa(m.Total)}
}

// unasked returns the account's volumes without those in asked.
func (a *acct) unasked(asked map[string]bool) ([]string, error) {
	names, err := a.s.dir.Volumes(a.name)
	return slices.DeleteFunc(names, func(n string) bool { return asked[n] }), err
}

// moveOne moves one volume and says what came of it; without a result it does
// not exist any more.
func (a *acct) moveOne(ctx context.Context, name string) (api.MovedVolume, error) {
	v := api.MovedVolume{Name: name}
	r, err := a.moveVolume(ctx, name)
	record, readErr := a.s.dir.Volume(a.name, name)
	if errors.Is(readErr, account.ErrNotFound) {
		return v, nil
	}
	if readErr == nil {
		v.KeySource = record.KeySource
	}
	switch {
	case err != nil:
		v.Result, v.Error = api.MoveFailed, api.ErrorOf(err).Message
	case r == resultMoved:
		v.Result = api.MoveDone
	case r == resultThere:
		v.Result = api.MoveThere
	default:
		v.Result = api.MoveApart
	}
	return v, err
}

// endMove drops the keys that were left, unless a volume is there that was not
// asked.
func (a *acct) endMove(asked map[string]bool) (finished bool, err error) {
	a.changes.Lock() // no volume is made meanwhile
	defer a.changes.Unlock()
	if left, err := a.unasked(asked); err != nil || len(left) > 0 {
		return false, err
	}
	return true, a.save(a.record().Moved())
}

const (
	// A move that was not finished is tried again after moverFirst, and after
	// longer and longer pauses while something stands in its way.
	moverFirst = time.Second
	moverMost  = time.Hour
	// moverLook is how often an account is looked at whose key is not available.
	moverLook = 2 * time.Second
)

// wakeMover says that there is a move to finish.
func (a *acct) wakeMover() {
	select {
	case a.unfinished <- struct{}{}:
	default:
	}
}

// finishMoves goes on with moves that were not finished, after a start of the
// daemon or when a key is back, until the account is closed.
func (a *acct) finishMoves() {
	pause := moverFirst
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-a.closing.Done():
			return
		case <-a.unfinished: // a command has just failed
			pause = moverFirst
			timer.Reset(pause)
			continue
		case <-timer.C:
		}
		switch {
		case a.record().Move == nil:
			timer.Stop()
			continue
		case !a.open():
			timer.Reset(moverLook)
			continue
		case a.goOn():
			timer.Stop()
			continue
		}
		// Its own failure has woken it, which must not make it hurry.
		select {
		case <-a.unfinished:
		default:
		}
		pause = min(2*pause, moverMost)
		timer.Reset(pause)
	}
}

// open reports whether the account's key is available as far as is known.
func (a *acct) open() bool {
	run := a.runner()
	return run != nil && run.Left() > 0
}

// goOn tries to finish the move and reports whether that is done.
func (a *acct) goOn() bool {
	ctx, end, ok := a.beginResume()
	if !ok {
		return false // a command does it
	}
	defer end()
	move := a.record().Move
	if move == nil {
		return true
	}
	a.moveEvent(account.AuditKeyMoveResumed, *move, account.Event{})
	if _, err := a.finishMove(ctx, nil); err != nil {
		if ctx.Err() != nil {
			return false
		}
		a.s.log.Warn("a change of keys is not finished", "account", a.name, "err", err)
		return false
	}
	a.s.log.Info("a change of keys that had stopped is finished", "account", a.name, "operation", move.Kind)
	return true
}
