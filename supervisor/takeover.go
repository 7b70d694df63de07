package supervisor

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

const (
	// openTimeout bounds one start of a worker, the key's release and the
	// recovery of the journal included.
	openTimeout = 60 * time.Second
	// Failed starts: after so many within the window, requests are refused
	// while starting is tried again, after longer and longer delays.
	maxFailures   = 3
	failureWindow = 10 * time.Second
	firstDelay    = 2 * time.Second
	maxDelay      = time.Minute
	// retryPause is the pause between the first failed starts.
	retryPause = 100 * time.Millisecond
	// stillborn is the shortest life of a worker that counts as one: a worker
	// that dies sooner may be dying of the request it is given, and counts as a
	// failed start.
	stillborn = 200 * time.Millisecond
	// maxKilled is how many workers in a row may be killed while they start, or
	// as soon as they serve, before that counts, too: somebody kills them for a
	// drill, or the kernel for the memory that a request makes them take.
	maxKilled = 30
)

// attempt is a start of a worker under way.
type attempt struct {
	cancel context.CancelFunc
	done   chan opened
}

// opened is the result of an attempt.
type opened struct {
	worker *workerProcess
	err    error
}

func (m *mounted) attemptDone() <-chan opened {
	if m.attempt != nil {
		return m.attempt.done
	}
	return nil
}

// workerDied reacts to the end of the worker. The supervisor's descriptor keeps
// the mount alive, and requests wait.
func (m *mounted) workerDied() {
	w := m.worker()
	m.setWorker(nil)
	if m.downSince.IsZero() {
		m.downSince = time.Now()
	}
	code := w.exitCode()
	switch p := m.phase(); {
	case p == phaseSuspending:
		m.finishSuspend(w.suspended())
	case p == phaseClosing:
		m.finishClose(w)
	case code == worker.ExitOK:
		// Neither suspended nor told to unmount: somebody else unmounted.
		m.close()
	case code == worker.ExitOrphan:
		// Its lease ran out and it suspended by itself. If that is so the next
		// start says it, too; if this process was only late, it goes on.
		m.log.Warn("the worker's lease ran out before it was renewed", "pid", w.pid)
		m.event(account.Event{Kind: account.AuditLeaseMissed})
		m.startWorker(false)
	default:
		m.log.Warn("the worker ended; starting another", "pid", w.pid, "err", w.failure())
		m.mu.Lock()
		m.mu.restarts++
		m.mu.Unlock()
		if time.Since(m.servingFrom) < stillborn {
			m.startFailed(w.failure())
			return
		}
		m.killed = 0
		m.event(account.Event{Kind: account.AuditWorkerRestarted, Reason: w.failure().Error()})
		m.startWorker(false)
	}
}

// startWorker begins an attempt. The answerer, if there is one, goes on
// refusing requests until a worker is ready.
func (m *mounted) startWorker(restoring bool) {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	m.attempt = &attempt{cancel: cancel, done: make(chan opened, 1)}
	m.restoring = restoring
	reason := ""
	if m.answerer != nil {
		reason = m.reason()
	}
	m.enter(phaseStarting, reason)
	if m.answerer == nil {
		m.wait.Reset(max(0, m.patience-time.Since(m.downSince)))
	}
	go func(done chan<- opened) {
		w, err := m.open(ctx)
		done <- opened{w, err}
	}(m.attempt.done)
}

// attemptEnded takes the result of an attempt in.
func (m *mounted) attemptEnded(r opened) {
	m.attempt.cancel()
	m.attempt = nil
	switch p := m.phase(); {
	case p == phaseSuspending || p == phaseClosing:
		// It was cancelled, too late perhaps.
		if r.worker != nil {
			r.worker.stop()
		}
		if p == phaseSuspending {
			m.finishSuspend(nil)
		} else {
			m.finishClose(nil)
		}
	case r.err == nil:
		m.failures, m.delay, m.downSince = nil, 0, time.Time{}
		m.handOver(r.worker)
		m.settle(nil)
	case m.restoring:
		m.enter(phaseSuspended, m.reason())
		m.settle(r.err)
	case isSuspended(r.err):
		m.settle(r.err)
		m.setReason(r.err.Error())
		m.finishSuspend(nil)
	default:
		m.startFailed(r.err)
	}
}

// handOver lets a worker that has opened the volume answer the mount's
// requests. From the moment the answerer has stopped until the worker reads,
// requests wait in the kernel; nobody refuses them any more.
func (m *mounted) handOver(w *workerProcess) {
	m.keeping.serves(m.device.Conn, w)
	var late [][]byte
	if m.answerer != nil {
		defer m.event(account.Event{Kind: account.AuditVolOnline})
		// A worker that is gone again is noticed by the loop.
		m.answerer.Forward = func(request []byte) { _ = w.conn.SendForward(request) }
		late = m.answerer.Stop()
		m.answerer = nil
	}
	m.setWorker(w)
	m.setAEK(w.aekID) // as its superblock was when it was opened
	m.servingFrom = time.Now()
	m.enter(phaseServing, "")
	err := w.conn.Send(worker.Request{Serve: &worker.Serve{
		Mount: m.config, Init: m.device.Init, Session: m.session,
		Resend: m.device.Resend, Errno: int(m.errno),
	}}, m.device.File, m.device.Nodes.File())
	if err != nil {
		m.log.Warn("the worker is gone before it served", "err", err)
		return // the loop sees its end
	}
	for _, request := range late {
		_ = w.conn.SendForward(request) // as above
	}
	m.renewNow() // it may have been renewed while the worker started
}

// startFailed decides what follows from a failed start: another one soon, or
// refusing requests and trying again later.
func (m *mounted) startFailed(err error) {
	wait := m.answerer == nil && time.Since(m.downSince) < m.patience
	if m.killed++; wait && m.killed <= maxKilled && wasKilled(err) {
		m.enter(phaseStarting, "")
		m.wait.Reset(retryPause)
		return
	}
	now := time.Now()
	m.failures = append(m.failures, now)
	for now.Sub(m.failures[0]) > failureWindow {
		m.failures = m.failures[1:]
	}
	m.log.Warn("no worker could be started", "failures", len(m.failures), "err", err)
	m.settle(err)
	if wait && len(m.failures) < maxFailures && worthRetrying(err) {
		m.enter(phaseStarting, err.Error())
		m.wait.Reset(retryPause)
		return
	}
	if m.answerer == nil {
		m.event(account.Event{Kind: account.AuditVolumeRefusing, Reason: err.Error()})
	}
	m.enter(phaseBackoff, err.Error())
	m.errno = m.errnoFor(err)
	m.refuse()
	m.delay = min(max(2*m.delay, firstDelay), maxDelay)
	m.wait.Reset(m.delay)
}

// errnoFor returns what requests get while workers cannot be started: only a
// key that is not available is shown as one.
func (m *mounted) errnoFor(err error) syscall.Errno {
	if isKeyError(err) {
		return m.errno
	}
	return unix.EIO
}

// wasKilled says whether a start failed because the worker was ended by SIGKILL,
// which no program does to itself.
func wasKilled(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == unix.SIGKILL
}

// worthRetrying says whether a start that failed may succeed a moment later.
func worthRetrying(err error) bool {
	var key *hsm.Error
	if errors.As(err, &key) {
		return key.Kind == hsm.KindUnreachable || key.Kind == hsm.KindThrottled
	}
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code == api.CodeFailed || e.Code == api.CodeBusy
	}
	return true
}

// isSuspended says whether a start failed because the account is suspended: its
// runner restores the volume, so that there is nothing to try again.
func isSuspended(err error) bool {
	var suspended *account.SuspendedError
	return errors.As(err, &suspended)
}

// lostPatience stops making requests wait for the attempt under way.
func (m *mounted) lostPatience() {
	const reason = "no volume worker could be started in time"
	m.setReason(reason)
	m.event(account.Event{Kind: account.AuditVolumeRefusing, Reason: reason})
	m.refuse()
}

func (m *mounted) reason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.reason
}

func (m *mounted) setReason(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.reason = reason
}
