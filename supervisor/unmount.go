package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/fs"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// unmountMode says what to do about a mount in which files are open.
type unmountMode int

const (
	// unmountClean refuses to unmount then.
	unmountClean unmountMode = iota
	// unmountLazy frees the mount point; the volume is served until the last
	// file is closed.
	unmountLazy
	// unmountForce waits a little, then suspends the volume, so that nothing is
	// lost, and takes it away from the programs that use it.
	unmountForce
)

const (
	// closeTimeout bounds a worker's closing of a volume: a checkpoint.
	closeTimeout = 2 * time.Minute
	// busyWait is how long a forced unmount gives programs to close files.
	busyWait = 3 * time.Second
)

// unmount begins an unmount. The system call may need the worker, or the next
// one, to write dirty pages back, so the loop must go on meanwhile.
func (m *mounted) unmount(c command) {
	if m.phase() == phaseClosing || m.unmounting != nil {
		c.done <- api.Errorf(api.CodeBusy, fmt.Sprintf("volume %s is being unmounted already", m.name))
		return
	}
	m.mu.Lock()
	detached := m.mu.detached
	m.mu.Unlock()
	if detached && c.how != unmountForce {
		c.done <- errNotMounted(m.account, m.name)
		return
	}
	m.unmounting = &c
	go func() { m.unmountDone <- unmountDevice(m.device, c.how, detached) }()
}

// unmountDevice calls umount(2) the way the mode says.
func unmountDevice(d *fs.Device, how unmountMode, detached bool) error {
	if detached {
		return nil
	}
	ctx := context.Background()
	for end := time.Now().Add(busyWait); ; time.Sleep(100 * time.Millisecond) {
		err := d.Unmount(ctx, how == unmountLazy)
		if how != unmountForce || !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// unmountEnded takes the kernel's answer in.
func (m *mounted) unmountEnded(err error) {
	c := m.unmounting
	m.unmounting = nil
	switch {
	case m.phase() == phaseClosing:
		// Somebody else was quicker.
		m.waiters = append(m.waiters, c.done)
	case errors.Is(err, unix.EBUSY) && c.how == unmountForce:
		m.log.Warn("files are still open; taking the volume away from the programs that use it")
		m.waiters = append(m.waiters, c.done)
		m.forceOut()
	case errors.Is(err, unix.EBUSY):
		c.done <- api.Errorf(api.CodeBusy, fmt.Sprintf("%s is in use: files on it are open, or it is a working directory", m.mountPoint))
	case err != nil && !errors.Is(err, unix.EINVAL): // EINVAL: not a mount point any more
		c.done <- err
	case c.how == unmountLazy:
		m.mu.Lock()
		m.mu.detached = true
		m.mu.Unlock()
		m.event(account.Event{Kind: account.AuditVolumeDetached, Detail: map[string]string{"mountPoint": m.mountPoint}})
		c.done <- nil // the worker, or the answerer, sees the last close
	default:
		m.waiters = append(m.waiters, c.done)
		m.close()
	}
}

// forceOut ends a mount whose files are open: what was written is made durable
// and nothing readable stays behind, then the mount goes.
func (m *mounted) forceOut() {
	m.mu.Lock()
	detached := m.mu.detached
	m.mu.Unlock()
	if !detached { // else something else may be mounted there by now
		if err := m.device.Unmount(context.Background(), true); err != nil && !errors.Is(err, unix.EINVAL) {
			m.log.Error("unmount", "err", err)
		}
	}
	w := m.worker()
	if w == nil {
		m.close()
		return
	}
	m.enter(phaseClosing, "")
	if err := w.conn.Send(worker.Request{Unmount: &worker.Unmount{}}); err != nil {
		w.kill()
	}
	m.expectEnd(closeTimeout)
}

// close goes on after the mount's end: the worker checkpoints and exits by
// itself, because its descriptor says that the mount is gone.
func (m *mounted) close() {
	m.enter(phaseClosing, "")
	w := m.worker()
	switch {
	case w != nil:
		if err := w.conn.Send(worker.Request{Unmount: &worker.Unmount{}}); err != nil {
			w.kill()
		}
		m.expectEnd(closeTimeout)
	case m.attempt != nil:
		m.attempt.cancel() // attemptEnded goes on
	default:
		m.finishClose(nil)
	}
}

// finishClose is the end: no process serves the mount, the last descriptor is
// closed. w is the worker that closed the volume, nil if there was none (the
// next mount recovers from the journal).
func (m *mounted) finishClose(w *workerProcess) {
	if m.answerer != nil {
		m.answerer.Stop()
		m.answerer = nil
	}
	if w != nil && w.exitCode() != worker.ExitOK {
		m.log.Error("the volume was not closed cleanly; the next mount recovers it", "err", w.failure())
	}
	m.keeping.drop(m.device.Conn)
	if err := m.device.Close(); err != nil {
		m.closeErr = fmt.Errorf("close the mount of %s: %w", m.name, err)
	}
	m.event(account.Event{Kind: account.AuditVolumeUnmounted, Detail: map[string]string{"mountPoint": m.mountPoint}})
	m.enter(phaseGone, "")
}

func errNotMounted(account, volume string) error {
	return api.Errorf(api.CodeNotMounted, fmt.Sprintf("volume %s/%s is not mounted", account, volume))
}
