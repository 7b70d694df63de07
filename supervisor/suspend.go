package supervisor

import (
	"strconv"
	"time"

	"cmkfs/account"
	"cmkfs/fs"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

const (
	// closeAfter is how long after the drain's deadline a worker may take to
	// report that nothing is let through any more.
	closeAfter = 500 * time.Millisecond
	// killAfter is how long a worker may take to exit after that. What it does
	// then (the rest of the kernel's caches, a last sync) serves nobody.
	killAfter = 5 * time.Second
)

// suspend ends access to the volume. The worker does the work while it still
// has the key; a worker that does not end by itself is killed, which loses
// nothing that was answered.
func (m *mounted) suspend(c command) {
	m.errno = c.errno
	switch m.phase() {
	case phaseClosing, phaseGone:
		c.done <- errNotMounted(m.account, m.name)
		return
	case phaseSuspended:
		m.setReason(c.reason)
		c.done <- nil
		return
	case phaseSuspending:
		m.waiters = append(m.waiters, c.done)
		return
	case phaseServing:
		m.enter(phaseSuspending, c.reason)
		w := m.worker()
		if err := w.conn.Send(worker.Request{Suspend: &worker.Suspend{
			Errno: int(c.errno), Deadline: c.deadline, Wait: m.blocks(),
		}}); err != nil {
			w.kill() // it is not listening
		}
		m.expectEnd(max(0, worker.Until(c.deadline)) + closeAfter)
		m.waiters = append(m.waiters, c.done)
	case phaseStarting:
		m.settle(api.Errorf(api.CodeSuspended, "the volume was suspended while access was being restored"))
		m.enter(phaseSuspending, c.reason)
		m.waiters = append(m.waiters, c.done)
		if m.attempt != nil {
			m.attempt.cancel() // attemptEnded goes on
		} else {
			m.finishSuspend(nil)
		}
	case phaseBackoff:
		m.enter(phaseSuspending, c.reason)
		m.waiters = append(m.waiters, c.done)
		m.finishSuspend(nil)
	}
}

// finishSuspend goes on after the worker's end: from here on this process
// answers. The kernel's caches are swept once more, for what was read between
// the worker's sweep and its end. did is the worker's report, if there is one.
func (m *mounted) finishSuspend(did *worker.Suspended) {
	if did != nil && did.Waiting && m.blocks() && m.answerer == nil {
		// The worker has seen to it that nothing is left while requests wait.
		m.answerer = fs.StartHolding(m.device, m.errno, m.log)
	} else {
		m.endAccess()
	}
	m.enter(phaseSuspended, m.reason())
	m.event(account.Event{Kind: account.AuditVolOffline, Reason: m.reason(), Detail: suspendedDetail(did)})
	m.settle(nil)
}

// endAccess has this process answer, and takes out of the kernel's caches what is
// left there. Only then requests may wait.
func (m *mounted) endAccess() {
	m.refuse()
	if m.blocks() {
		m.answerer.Hold()
	}
}

// suspendedDetail is what an event says about a worker's suspending sequence.
func suspendedDetail(s *worker.Suspended) map[string]string {
	if s == nil {
		return nil
	}
	return map[string]string{
		"nodes":   strconv.Itoa(s.Nodes),
		"writes":  strconv.Itoa(s.Writes),
		"bytes":   strconv.FormatInt(s.Bytes, 10),
		"refused": strconv.Itoa(s.Refused),
		"overdue": strconv.Itoa(s.Overdue),
		"held":    strconv.Itoa(s.Held),
	}
}

// restore gives access back: a new worker takes over. If none can be had the
// volume stays suspended and the caller learns why.
func (m *mounted) restore(c command) {
	switch m.phase() {
	case phaseServing:
		c.done <- nil
	case phaseClosing, phaseGone:
		c.done <- errNotMounted(m.account, m.name)
	case phaseSuspending:
		c.done <- api.Errorf(api.CodeBusy, "the volume is being suspended; try again in a moment")
	case phaseStarting:
		m.waiters = append(m.waiters, c.done)
		m.restoring = m.answerer != nil
	case phaseBackoff, phaseSuspended:
		m.waiters = append(m.waiters, c.done)
		m.startWorker(m.phase() == phaseSuspended)
	}
}
