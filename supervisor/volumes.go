package supervisor

import (
	"context"
	"fmt"
	"time"

	"cmkfs/account"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// volumeKey names a volume within the daemon.
type volumeKey struct{ account, name string }

func (k volumeKey) String() string { return k.account + "/" + k.name }

// begin takes a volume for one command; a second command meanwhile is refused,
// with the name of the first. The caller calls end.
func (s *Supervisor) begin(k volumeKey, command string) (end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.stopping {
		return nil, api.Errorf(api.CodeBusy, "the daemon is shutting down")
	}
	if other, busy := s.mu.busy[k]; busy {
		return nil, api.Errorf(api.CodeBusy, fmt.Sprintf("volume %s is busy: another command (%s) is under way", k, other))
	}
	s.mu.busy[k] = command
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.mu.busy, k)
	}, nil
}

// mountedVolume returns a mounted volume, nil if it is not mounted.
func (s *Supervisor) mountedVolume(k volumeKey) *mounted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.mounted[k]
}

// stillMounted returns a mounted volume, nil if it is not mounted. It waits for
// the end of one that is being closed, after an umount(8) for example, whether
// or not the volume's loop has noticed already.
func (s *Supervisor) stillMounted(k volumeKey) *mounted {
	m := s.mountedVolume(k)
	if m == nil || m.phase() != phaseClosing && m.phase() != phaseGone && m.device.Alive() {
		return m
	}
	<-m.ended
	return nil
}

// mounted returns the account's mounted volumes.
func (a *acct) mounted() []*mounted {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	var all []*mounted
	for k, m := range a.s.mu.mounted {
		if k.account == a.name {
			all = append(all, m)
		}
	}
	return all
}

// suspendVolume is the operator's lock of one volume.
func (a *acct) suspendVolume(ctx context.Context, name string) error {
	k := volumeKey{a.name, name}
	m, end, err := a.command(k, "suspend")
	if err != nil {
		return err
	}
	defer end()
	m.hold(true)
	return m.call(ctx, command{
		kind: cmdSuspend, errno: errnoOf(a.record().Policy.SuspendErrno), reason: "suspended by an operator",
		deadline: worker.In(a.s.cfg.DrainTimeout),
	})
}

// restoreVolume gives access to one volume back. If it is the account's key
// that is suspended, the account is restored.
func (a *acct) restoreVolume(ctx context.Context, name string) error {
	k := volumeKey{a.name, name}
	m, end, err := a.command(k, "restore-access")
	if err != nil {
		return err
	}
	defer end()
	m.hold(false)
	if run := a.runner(); run != nil && a.leased(m.aek()) && !run.Lease().Open() {
		if err := run.Restore(ctx); err != nil {
			return err
		}
	}
	return m.call(ctx, command{kind: cmdRestore})
}

// unmountVolume unmounts a volume.
func (a *acct) unmountVolume(ctx context.Context, name string, lazy bool) error {
	k := volumeKey{a.name, name}
	m, end, err := a.command(k, "unmount")
	if err != nil {
		return err
	}
	defer end()
	how := unmountClean
	if lazy {
		how = unmountLazy
	}
	return m.call(ctx, command{kind: cmdUnmount, how: how})
}

// command begins a command about a mounted volume.
func (a *acct) command(k volumeKey, what string) (*mounted, func(), error) {
	if _, err := a.s.dir.Volume(a.name, k.name); err != nil {
		return nil, nil, err
	}
	end, err := a.s.begin(k, what)
	if err != nil {
		return nil, nil, err
	}
	m := a.s.mountedVolume(k)
	if m == nil {
		end()
		return nil, nil, errNotMounted(a.name, k.name)
	}
	return m, end, nil
}

// deleteVolume removes an unmounted volume.
func (a *acct) deleteVolume(ctx context.Context, name string) error {
	k := volumeKey{a.name, name}
	if err := account.CheckName("volume", name); err != nil {
		return err
	}
	end, err := a.s.begin(k, "delete")
	if err != nil {
		return err
	}
	defer end()
	if m := a.s.stillMounted(k); m != nil {
		return api.Errorf(api.CodeBusy, fmt.Sprintf("volume %s is mounted on %s; unmount it first", k, m.mountPoint))
	}
	release, err := a.s.exclusive(ctx, k) // its key may be on the move
	if err != nil {
		return err
	}
	defer release()
	if err := a.s.dir.DeleteVolume(a.name, name); err != nil {
		return err
	}
	if err := a.s.dir.ForgetPosition(a.name, name); err != nil {
		a.s.log.Warn("what is known of a deleted volume stays", "vol", k.String(), "err", err)
	}
	a.event(account.Event{Kind: account.AuditVolumeDeleted, Volume: name})
	return nil
}

// statsTimeout bounds the wait for a worker's numbers.
const statsTimeout = time.Second

// volumeStatus says how a volume is now.
func (a *acct) volumeStatus(ctx context.Context, name string) (api.VolumeStatus, error) {
	record, err := a.s.dir.Volume(a.name, name)
	if err != nil {
		return api.VolumeStatus{}, err
	}
	st := api.VolumeStatus{
		Name: name, State: api.VolumeUnmounted, KeySource: record.KeySource, QuotaBytes: record.QuotaBytes,
	}
	if m := a.s.mountedVolume(volumeKey{a.name, name}); m != nil {
		m.status(ctx, &st)
	}
	return st, nil
}

// status fills in what is known of a mounted volume.
func (m *mounted) status(ctx context.Context, st *api.VolumeStatus) {
	m.mu.Lock()
	st.State = states[m.mu.phase]
	st.Restarts, st.Reason = m.mu.restarts, m.mu.reason
	w := m.mu.worker
	if !m.mu.detached && st.State != api.VolumeUnmounted {
		st.MountPoint = m.mountPoint
	}
	m.mu.Unlock()
	if w == nil {
		return
	}
	st.WorkerPID = w.pid
	if st.State != api.VolumeOnline {
		return // it is busy ending
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	if n, ok := w.stats(ctx); ok {
		st.UsedBytes, st.Files, st.Goroutines = n.UsedBytes, n.Files, n.Goroutines
	}
}
