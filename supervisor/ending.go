package supervisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/fs"
	"cmkfs/worker"
)

const (
	// endLook is how often the loop looks at a worker that is to end.
	endLook = 20 * time.Millisecond
	// dyingLooks is after how many looks a worker that dies but does not end is
	// stuck. The other threads of a dying process are gone in far less time.
	dyingLooks = 4
)

// expectEnd gives the worker a time to end by itself.
func (m *mounted) expectEnd(within time.Duration) {
	m.endBy, m.dying = time.Now().Add(within), 0
	m.wait.Reset(endLook)
}

// watchEnd looks after a worker that is to end. One that takes too long, or was
// stopped, is killed. One that was killed, by us or by somebody else, may not be able to
// die: a thread of it that invalidates the kernel's pages waits, unkillably,
// for the answer to a READ that another of its threads had taken. With that one
// dead nobody but us can answer it (watchDying).
func (m *mounted) watchEnd() {
	w := m.worker()
	if w == nil {
		return // an attempt is being cancelled
	}
	m.wait.Reset(endLook)
	if m.watchDying() {
		return
	}
	if m.phase() == phaseSuspending && w.closed.CompareAndSwap(true, false) {
		m.endBy = time.Now().Add(killAfter)
	}
	if time.Now().Before(m.endBy) && !stopped(w.pid) {
		return
	}
	m.log.Warn("the worker did not end in time; killing it", "pid", w.pid)
	w.kill()
	m.endBy = time.Now().Add(time.Hour) // once
}

// watchDying reports whether the worker is dying. If it cannot, because its disk
// hangs or because it waits for itself, this process answers in its place, and
// ends access if that is being taken away: nobody waits for a disk.
func (m *mounted) watchDying() bool {
	w := m.worker()
	if w == nil || !dying(w.pid) {
		m.dying = 0
		return false
	}
	// One that has reported its suspending waits for nothing any more, and ends
	// as soon as the machine lets it.
	if m.dying++; m.dying != dyingLooks || w.suspended() != nil {
		return true
	}
	m.log.Warn("the worker cannot die; answering in its place", "pid", w.pid)
	switch {
	case m.phase() == phaseSuspending:
		m.endAccess()
	case m.answerer == nil:
		m.answerer = fs.StartAnswerer(m.device, unix.EIO, m.log)
	}
	return true
}

// maxUnanswered is how many pings a worker may leave unanswered.
const maxUnanswered = 6

// watchHanging asks the worker for a sign of life, and kills one that has given
// none for too long; the next one takes over. Pings are counted, not time, so
// that a machine that slept is not mistaken for a worker that hangs.
func (m *mounted) watchHanging() {
	w := m.worker()
	if w == nil {
		return
	}
	if w.unanswered.Load() >= maxUnanswered {
		m.log.Error("the worker does not answer; killing it", "pid", w.pid)
		w.kill()
		return
	}
	w.unanswered.Add(1)
	// Not a worker that is gone: that is noticed by the loop.
	_ = w.conn.Send(worker.Request{Ping: &worker.Ask{}})
}

// dying says whether a process is exiting or has been killed: its first thread
// is gone or has a SIGKILL that it cannot take yet.
func dying(pid int) bool {
	state, pending := look(pid)
	return state == 'Z' || state == 'X' || pending&(1<<(unix.SIGKILL-1)) != 0
}

// stopped says whether a process was stopped by a signal.
func stopped(pid int) bool {
	state, _ := look(pid)
	return state == 'T' || state == 't'
}

// look returns the state of a process's first thread, X if it is gone, and the
// signals it has not taken yet.
func look(pid int) (state byte, pending uint64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 'X', 0
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "State":
			if value != "" {
				state = value[0]
			}
		case "SigPnd":
			// Not a number: a kernel that shows none.
			pending, _ = strconv.ParseUint(value, 16, 64)
		}
	}
	return state, pending
}
