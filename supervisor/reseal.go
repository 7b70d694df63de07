package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"cmkfs/account"
	"cmkfs/keyagent"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

const (
	// keyTimeout bounds a worker's answer about a superblock: the disk's time.
	keyTimeout = 30 * time.Second
	// holderWait is how long a volume may be held by a process that is neither
	// its worker nor ours, a check for example, before it is left for later.
	holderWait = 10 * time.Second
	holderLook = 100 * time.Millisecond
)

// What an attempt ends with that is begun again: a worker that ended before it
// had answered, after which another one knows where the volume stands, and an
// answer of a customer's key that was replaced meanwhile.
var (
	errWorkerGone  = errors.New("the volume worker ended")
	errKeyReplaced = errors.New("the customer's key was replaced meanwhile")
)

// result is what a move did to one volume.
type result int

const (
	resultMoved result = iota
	resultThere        // its key was under the new one already
	resultApart        // the move is not about the key it is under
)

// moveVolume takes one volume's key to the account encryption key of the move
// under way, whoever serves the volume now, if anybody does. Nothing but its
// superblock is touched, and programs that use it do not notice.
func (a *acct) moveVolume(ctx context.Context, name string) (result, error) {
	k := volumeKey{a.name, name}
	for until := time.Now().Add(holderWait); ; {
		r, err := a.tryMove(ctx, k)
		var e *api.Error
		again := errors.Is(err, errWorkerGone) || errors.Is(err, errKeyReplaced) || errors.As(err, &e) && e.Code == api.CodeBusy
		if !again || time.Now().After(until) {
			return r, err
		}
		select {
		case <-time.After(holderLook):
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

// tryMove asks the worker that serves the volume, or one that it starts for
// this alone.
func (a *acct) tryMove(ctx context.Context, k volumeKey) (result, error) {
	if m := a.s.mountedVolume(k); m != nil {
		if w := m.serving(); w != nil {
			return a.moveKey(ctx, k, w, m)
		}
	}
	// Nobody opens the volume meanwhile: whoever wants to waits.
	release, err := a.s.exclusive(ctx, k)
	if err != nil {
		return 0, err
	}
	defer release()
	w, err := a.spawner(k.name).start(ctx, worker.Start{
		Mode: worker.ModeReseal, Dir: a.s.dir.VolumeDir(k.account, k.name), Label: k.String(),
	}, a.findAEK, nil)
	if err != nil {
		return 0, err
	}
	defer w.stop()
	if err := w.waitReady(ctx); err != nil {
		return 0, err
	}
	return a.moveKey(ctx, k, w, a.s.mountedVolume(k))
}

// moveKey does the work through the worker that holds the volume's lock. m is
// the volume's mount, nil if it has none.
//
// A crash leaves the superblock under the old key or the new one; from before
// it can be the new one until it is known to be, the volume's record names
// both, and the account keeps both.
func (a *acct) moveKey(ctx context.Context, k volumeKey, w *workerProcess, m *mounted) (result, error) {
	sealed, err := w.askKey(ctx, worker.KeyRequest{})
	if err != nil {
		return 0, err
	}
	record := a.record()
	from, err := a.findAEK(sealed.AEKID)
	if err != nil {
		return 0, err
	}
	if !record.Leaving(*from) {
		if m != nil {
			m.setAEK(from.ID)
		}
		r := resultApart
		if record.Move != nil && from.ID == record.Move.To {
			r = resultThere
		}
		return r, a.noteKey(k, sealed, from, nil)
	}
	to := record.AEK(record.Move.To)
	vek, err := a.agent(k.name).Reseal(ctx, under(from), under(to), sealed.VolumeID, keyagent.VEK{Sealed: sealed.VEK, Commitment: sealed.Commitment})
	if err != nil && a.replaced(*from, *to) {
		return 0, fmt.Errorf("%w: %w", errKeyReplaced, err)
	}
	if err != nil {
		return 0, err
	}
	if m != nil {
		if err := a.coverByLease(m, to.ID); err != nil {
			return 0, err
		}
	}
	if err := a.noteKey(k, sealed, to, from); err != nil {
		return 0, err
	}
	now, err := w.askKey(ctx, worker.KeyRequest{From: from.ID, New: &worker.Sealed{
		VolumeID: sealed.VolumeID, AEKID: to.ID, VEK: vek.Sealed,
	}})
	if err != nil {
		return 0, err // the next attempt asks which one it is
	}
	if now.AEKID != to.ID || !bytes.Equal(now.VEK, vek.Sealed) {
		return 0, fmt.Errorf("volume %s: the superblock does not hold what was written", k)
	}
	a.event(account.Event{Kind: account.AuditVolumeKeyMoved, Volume: k.name, KeyParams: record.KeyParamsOf(to.Key), Detail: map[string]string{
		"fromAek": from.ID, "toAek": to.ID, "keySource": to.Source,
	}})
	return resultMoved, a.noteKey(k, sealed, to, nil)
}

// coverByLease puts a mounted volume under the lease that its next key rests
// on, before it gets that key: a suspension that begins now ends it, too, and
// its worker learns the deadline at once.
func (a *acct) coverByLease(m *mounted, aekID string) error {
	if _, err := a.lease(aekID); err != nil {
		return err
	}
	before := m.setAEK(aekID)
	if _, err := a.lease(aekID); err != nil {
		m.setAEK(before) // a suspension that had begun did not see it
		return err
	}
	m.renewNow()
	return nil
}

// noteKey writes into a volume's record which key it is under, and which one it
// still may be under; nil = none. A record that was lost is made again.
func (a *acct) noteKey(k volumeKey, sealed worker.Sealed, now, former *account.AEKRecord) error {
	return a.changeVolume(k.name, func(v *account.VolumeRecord) bool {
		if v.AEKID == "" {
			v.QuotaBytes = sealed.Quota
		}
		old := *v
		v.AEKID, v.FormerAEKID = now.ID, ""
		if former != nil {
			v.FormerAEKID = former.ID
		} else {
			v.KeySource = now.Source
		}
		return v.AEKID != old.AEKID || v.FormerAEKID != old.FormerAEKID || v.KeySource != old.KeySource
	})
}

// under is an account encryption key in the key agent's terms.
func under(r *account.AEKRecord) keyagent.Under {
	return keyagent.Under{Key: r.Key, AEKID: r.ID, AEK: stored(r)}
}

// exclusive waits until nobody starts a worker for a volume, and keeps everybody
// from it until release is called. A volume that a worker has open already is
// not affected.
func (s *Supervisor) exclusive(ctx context.Context, k volumeKey) (release func(), err error) {
	for {
		s.mu.Lock()
		other := s.mu.starting[k]
		if other == nil {
			mine := make(chan struct{})
			s.mu.starting[k] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.mu.starting, k)
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// serving returns the worker that answers the mount's requests, nil if none
// does.
func (m *mounted) serving() *workerProcess {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.phase != phaseServing {
		return nil
	}
	return m.mu.worker
}

// aek returns the account encryption key that the volume is under, or is about
// to be.
func (m *mounted) aek() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.aekID
}

// setAEK changes it and returns what it was.
func (m *mounted) setAEK(id string) (before string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, m.mu.aekID = m.mu.aekID, id
	return before
}

// askKey sends a key request to the worker and returns what the superblock says
// after it.
func (p *workerProcess) askKey(ctx context.Context, r worker.KeyRequest) (worker.Sealed, error) {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	answer := make(chan worker.KeyAnswer, 1)
	p.mu.Lock()
	p.mu.keyRequests++
	r.ID = p.mu.keyRequests
	p.mu.keyAnswer, p.mu.keyWaits = answer, r.ID
	p.mu.Unlock()
	if err := p.conn.Send(worker.Request{Key: &r}); err != nil {
		return worker.Sealed{}, fmt.Errorf("%w: %w", errWorkerGone, err)
	}
	select {
	case a := <-answer:
		if a.Failed != nil {
			return worker.Sealed{}, api.Errorf(codes[a.Failed.Class], a.Failed.Reason)
		}
		if a.Sealed == nil {
			return worker.Sealed{}, errors.New("the volume worker gave an answer without a result")
		}
		return *a.Sealed, nil
	case <-p.dead:
		return worker.Sealed{}, errWorkerGone
	case <-ctx.Done():
		return worker.Sealed{}, fmt.Errorf("the volume worker did not answer: %w", ctx.Err())
	}
}
