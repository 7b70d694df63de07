package supervisor

import (
	"context"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"cmkfs/account"
	"cmkfs/fs"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// phase is what a mounted volume's loop is doing. The requests of the mount are
// answered by exactly one process in each of them.
type phase int

const (
	// phaseServing: a worker answers.
	phaseServing phase = iota
	// phaseStarting: a worker is being started, or is about to be (attempt is
	// nil). Requests wait in the kernel or, if it takes too long or access was
	// suspended, get the errno.
	phaseStarting
	// phaseBackoff: workers could not be started; the answerer refuses
	// requests, and another start is tried later.
	phaseBackoff
	// phaseSuspending: the worker drains, commits and exits.
	phaseSuspending
	// phaseSuspended: the answerer refuses requests until access is restored.
	phaseSuspended
	// phaseClosing: the mount is gone; the worker closes the volume.
	phaseClosing
	// phaseGone: nothing is left; the loop has ended.
	phaseGone
)

// states are the names that status shows for the phases.
var states = map[phase]string{
	phaseServing:    api.VolumeOnline,
	phaseStarting:   api.VolumeRestoring,
	phaseBackoff:    api.VolumeSuspended,
	phaseSuspending: api.VolumeSuspending,
	phaseSuspended:  api.VolumeSuspended,
	phaseClosing:    api.VolumeUnmounted,
	phaseGone:       api.VolumeUnmounted,
}

// mounted is a volume with a mount. One goroutine, the loop, starts and ends
// its workers; everybody else sends it commands. That is why a worker's death,
// a suspension by the lease and an operator's command cannot get into each
// other's way, and why nothing here needs a lock but what status reads.
type mounted struct {
	account, name string
	mountPoint    string
	device        *fs.Device
	config        fs.MountConfig
	session       uint64 // random number of the mount
	log           *slog.Logger

	hangTimeout time.Duration // how long a worker may say nothing
	patience    time.Duration // how long requests wait for a new worker

	// open starts a worker and waits until it has opened the volume.
	open func(ctx context.Context) (*workerProcess, error)
	// lease is until when a worker may hold the key, or why it may not.
	lease func() (deadline int64, err error)
	// blocks says whether requests wait while the volume is suspended.
	blocks func() bool
	// event reports to the account's log; the loop fills in the volume.
	event func(account.Event)
	// keeping has the mount's second holder, who is told of every worker.
	keeping *keeping
	// remember stores how far the volume has got.
	remember func(worker.Position) error
	// gone takes the volume off the daemon's list; the loop calls it at its end.
	gone func()

	commands chan command
	ended    chan struct{} // closed with phaseGone

	mu struct {
		sync.Mutex
		phase    phase
		reason   string // why the volume is not online
		worker   *workerProcess
		restarts int
		detached bool   // the mount point is free although the mount lives on
		held     bool   // an operator suspended this volume: only an operator restores
		aekID    string // the account encryption key that the volume is under, or is about to be
	}

	// The rest belongs to the loop.
	errno       syscall.Errno   // what refused requests get
	answerer    *fs.Answerer    // nil = nobody refuses requests
	attempt     *attempt        // nil = no worker is being started
	restoring   bool            // the attempt gives access back: its failure suspends again
	servingFrom time.Time       // when the worker took over
	downSince   time.Time       // when the last worker ended; zero while one serves
	failures    []time.Time     // recent failed starts
	killed      int             // starts in a row that failed, those by SIGKILL included
	delay       time.Duration   // before the next start in phaseBackoff
	wait        *time.Timer     // of the phase: see timeUp
	waiters     []chan<- error  // who waits for the suspension or restoration under way
	unmounting  *command        // an unmount that the kernel is carrying out
	unmountDone chan error      // its result
	remounting  *command        // a remount that the kernel is carrying out
	remountDone chan error      // its result
	endBy       time.Time       // when a worker that is to end is killed
	dying       int             // how often it was seen dying since
	closeErr    error           // with which the mount has ended
	noted       worker.Position // what is remembered of the volume

	remountConfig fs.MountConfig // what the remount leads to
}

// kind is what a command asks for.
type kind int

const (
	cmdSuspend kind = iota
	cmdRestore
	cmdUnmount
	cmdRemount
)

// command is a message to the loop.
type command struct {
	kind     kind
	errno    syscall.Errno // cmdSuspend
	reason   string        // cmdSuspend
	deadline int64         // cmdSuspend: of the drain, as worker.Now counts
	how      unmountMode   // cmdUnmount
	options  []string      // cmdRemount
	done     chan<- error  // room for one
}

// call gives the loop a command and waits for the result.
func (m *mounted) call(ctx context.Context, c command) error {
	done := make(chan error, 1)
	c.done = done
	select {
	case m.commands <- c:
	case <-m.ended:
		return errNotMounted(m.account, m.name)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-m.ended:
		select {
		case err := <-done:
			return err
		default:
			return errNotMounted(m.account, m.name)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// renew moves the worker's lease. It may be called by anybody.
func (m *mounted) renew(deadline int64) {
	m.mu.Lock()
	w := m.mu.worker
	m.mu.Unlock()
	if w != nil {
		// A worker that is gone is noticed by the loop.
		_ = w.conn.Send(worker.Request{Lease: &worker.Lease{Deadline: deadline}})
	}
}

// renewEvery is how often the loop looks for a newer lease by itself: the leases
// that no runner extends are good for much longer.
const renewEvery = 30 * time.Second

// lookEvery is how often the loop looks whether its worker is dying.
const lookEvery = time.Second

// renewNow tells the worker the lease as it is now.
func (m *mounted) renewNow() {
	if deadline, err := m.lease(); err == nil {
		m.renew(deadline)
	}
}

// hold keeps the account from restoring the volume, or lets it again.
func (m *mounted) hold(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.held = on
}

func (m *mounted) held() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.held
}

// run is the loop, from the mount to its end. It begins with a worker that has
// opened the volume, or suspended with none.
func (m *mounted) run(first *workerProcess) {
	m.wait = time.NewTimer(time.Hour)
	m.wait.Stop()
	m.unmountDone = make(chan error, 1)
	m.remountDone = make(chan error, 1)
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	ping := time.NewTicker(m.hangTimeout / maxUnanswered)
	defer ping.Stop()
	if first != nil {
		m.handOver(first)
	} else {
		m.finishSuspend(nil)
	}
	for m.phase() != phaseGone {
		select {
		case c := <-m.commands:
			m.handle(c)
		case <-m.workerDead():
			m.note()
			m.workerDied()
		case r := <-m.attemptDone():
			m.attemptEnded(r)
		case err := <-m.unmountDone:
			m.unmountEnded(err)
		case err := <-m.remountDone:
			m.remountEnded(err)
		case <-m.answererEnded():
			m.answererGone()
		case <-m.wait.C:
			m.timeUp()
		case <-renew.C:
			m.renewNow()
		case <-look.C:
			m.note()
			if m.phase() == phaseServing {
				m.watchDying()
			}
		case <-ping.C:
			if m.phase() == phaseServing {
				m.watchHanging()
			}
		}
	}
	m.gone()
	if m.unmounting != nil {
		// The worker saw the end of the mount before umount(2) returned.
		m.waiters = append(m.waiters, m.unmounting.done)
	}
	m.settle(m.closeErr)
	close(m.ended)
}

func (m *mounted) handle(c command) {
	switch c.kind {
	case cmdSuspend:
		m.suspend(c)
	case cmdRestore:
		m.restore(c)
	case cmdUnmount:
		m.unmount(c)
	case cmdRemount:
		m.remount(c)
	}
}

// timeUp is called when the time a phase may take is over.
func (m *mounted) timeUp() {
	switch m.phase() {
	case phaseStarting:
		if m.attempt != nil {
			m.lostPatience()
		} else {
			m.startWorker(false) // after the pause between two attempts
		}
	case phaseBackoff:
		m.startWorker(false)
	case phaseSuspending, phaseClosing:
		m.watchEnd()
	}
}

// phase returns the phase. Only the loop changes it.
func (m *mounted) phase() phase {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.phase
}

// enter changes the phase and stops the old one's timer.
func (m *mounted) enter(p phase, reason string) {
	m.wait.Stop()
	m.mu.Lock()
	from := m.mu.phase
	m.mu.phase, m.mu.reason = p, reason
	m.mu.Unlock()
	if states[from] != states[p] {
		m.log.Info("volume", "from", states[from], "to", states[p], "reason", reason)
	}
}

func (m *mounted) worker() *workerProcess {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.worker
}

func (m *mounted) setWorker(w *workerProcess) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.worker = w
}

// workerDead is closed when the serving worker has ended; nil without one.
func (m *mounted) workerDead() <-chan struct{} {
	if w := m.worker(); w != nil {
		return w.dead
	}
	return nil
}

// answererEnded is closed when the answerer found the mount gone.
func (m *mounted) answererEnded() <-chan struct{} {
	if m.answerer != nil {
		return m.answerer.Done()
	}
	return nil
}

// answererGone reacts to an answerer that has ended by itself: usually because
// somebody else has unmounted the volume.
func (m *mounted) answererGone() {
	m.answerer = nil
	switch {
	case m.device.Alive():
		m.log.Error("refusing requests failed; beginning again")
		time.Sleep(100 * time.Millisecond) // not in a tight circle
		m.refuse()
	case m.phase() != phaseClosing:
		m.close()
	}
}

// settle tells everybody who waits what came of it.
func (m *mounted) settle(err error) {
	for _, w := range m.waiters {
		w <- err
	}
	m.waiters = nil
}

// refuse makes sure that requests are answered with the errno and that nothing
// of the volume is left in the kernel's caches.
func (m *mounted) refuse() {
	if m.answerer == nil {
		m.answerer = fs.StartAnswerer(m.device, m.errno, m.log)
	}
	m.answerer.SetErrno(m.errno)
	if m.answerer.Holding() {
		return // nothing is left since the requests wait, and a sweep would wait for them
	}
	ctx, cancel := context.WithTimeout(context.Background(), invalidateTimeout)
	defer cancel()
	if _, err := m.device.InvalidateAll(ctx); err != nil {
		m.log.Error("cannot drop the kernel's caches", "err", err)
	}
}

// invalidateTimeout bounds one sweep over the kernel's caches.
const invalidateTimeout = 30 * time.Second
