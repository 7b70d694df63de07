package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/fs"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// remountVolume changes the options of a mount that is there.
func (a *acct) remountVolume(ctx context.Context, name string, r api.Mount) error {
	k := volumeKey{a.name, name}
	m := a.s.stillMounted(k)
	if m == nil {
		return errNotMounted(a.name, name)
	}
	if r.MountPoint != m.mountPoint {
		return api.Errorf(api.CodeInvalid, fmt.Sprintf("volume %s is mounted on %s, not on %s", k, m.mountPoint, r.MountPoint))
	}
	if err := m.call(ctx, command{kind: cmdRemount, options: r.Options}); err != nil {
		return err
	}
	if err := a.changeVolume(name, func(v *account.VolumeRecord) bool {
		// In their order, each once: a mount may be remounted for ever.
		v.Options = append(slices.DeleteFunc(v.Options, func(o string) bool { return slices.Contains(r.Options, o) }), r.Options...)
		return true
	}); err != nil {
		a.s.log.Warn("the mount's options cannot be noted", "vol", k.String(), "err", err)
	}
	return nil
}

// remount begins a remount. Like an unmount it may need the worker to write
// dirty pages back, so the loop must go on meanwhile.
func (m *mounted) remount(c command) {
	m.mu.Lock()
	detached := m.mu.detached
	m.mu.Unlock()
	switch {
	case m.phase() == phaseClosing || detached:
		c.done <- errNotMounted(m.account, m.name)
		return
	case m.remounting != nil || m.unmounting != nil:
		c.done <- api.Errorf(api.CodeBusy, fmt.Sprintf("volume %s is being remounted or unmounted already", m.name))
		return
	}
	config, err := changeOptions(m.config, c.options)
	if err != nil {
		c.done <- err
		return
	}
	m.remounting, m.remountConfig = &c, config
	go func() { m.remountDone <- m.device.Remount(context.Background(), config) }()
}

// remountEnded takes the kernel's answer in, and tells the worker.
func (m *mounted) remountEnded(err error) {
	c := m.remounting
	m.remounting = nil
	var fixed *fs.FixedError
	switch {
	case errors.As(err, &fixed):
		err = api.Errorf(api.CodeInvalid, "mount option "+fixed.Error())
	case errors.Is(err, unix.EBUSY):
		err = api.Errorf(api.CodeBusy, fmt.Sprintf("%s cannot be made read-only: files on it are open for writing", m.mountPoint))
	case err == nil:
		m.config = m.remountConfig
		if w := m.worker(); w != nil && m.phase() == phaseServing {
			// A worker that is gone is noticed by the loop.
			_ = w.conn.Send(worker.Request{Remount: &worker.Remount{Mount: m.config}})
		}
		m.log.Info("remounted", "readOnly", m.config.ReadOnly, "options", m.config.Options)
	}
	c.done <- err
}
