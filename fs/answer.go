package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Answerer answers, in the supervisor, the requests of a volume that has no
// worker: each fails with one errno, at once. It counts what the kernel
// forgets, for the next worker.
type Answerer struct {
	// Forward, if set before Stop, is called with a request that is read
	// although Stop was called: a thread that waits for a request when a
	// worker takes over cannot be called back. The worker must get it, by
	// Server.Handle.
	Forward func(request []byte)

	dev  *Device
	log  *slog.Logger
	wake int // eventfd: Stop was called
	done chan struct{}
	stop chan struct{} // closed by Stop

	sweeper sync.WaitGroup // dropHalfWritten
	mu      struct {
		sync.Mutex
		errno    syscall.Errno // of refused requests
		stopping bool
		late     [][]byte        // read after Stop was called, before it returned
		waiting  map[uint64]held // after Hold: the requests that wait, by number; nil = none may
		returned bool
		ended    bool // the thread, and wake is closed
	}
}

// stopPatience is how long Stop waits for the thread. It only takes that long
// when another process took the request that woke the thread.
const stopPatience = 100 * time.Millisecond

// StartAnswerer begins to answer. No worker may be alive: the requests a dead
// one left unanswered are answered too.
func StartAnswerer(d *Device, errno syscall.Errno, log *slog.Logger) *Answerer {
	return startAnswerer(d, errno, log, false)
}

// StartHolding begins with requests that wait, as after Hold: those that the
// worker left waiting, too (Drained.Waiting).
func StartHolding(d *Device, errno syscall.Errno, log *slog.Logger) *Answerer {
	return startAnswerer(d, errno, log, true)
}

func startAnswerer(d *Device, errno syscall.Errno, log *slog.Logger, hold bool) *Answerer {
	a := &Answerer{dev: d, log: log, done: make(chan struct{}), stop: make(chan struct{})}
	a.mu.errno = errno
	if hold {
		a.Hold()
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		// Without it Stop would not reach the thread. Descriptors have
		// run out: no worker could be started either.
		panic(fmt.Sprintf("eventfd: %v", err))
	}
	a.wake = fd
	a.takeOver()
	go a.run()
	return a
}

// takeOver sees to what a dead worker had read.
func (a *Answerer) takeOver() {
	left := a.dev.Nodes.takeInflight()
	if a.dev.Resend {
		if err := resend(int(a.dev.File.Fd())); err != nil && !errors.Is(err, errGone) {
			a.log.Error("take over from a worker", "err", err)
		}
		return
	}
	for _, u := range left {
		a.reply(u, a.errno())
	}
}

// SetErrno changes what refused requests get.
func (a *Answerer) SetErrno(errno syscall.Errno) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.errno = errno
}

func (a *Answerer) errno() syscall.Errno {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.errno
}

// Hold makes requests wait from now on instead of failing, until a worker takes
// over: the kernel sends it again what this process has read. A process that
// waits can be killed: its request is interrupted. Without a kernel that repeats
// requests they go on failing.
//
// A request that waits may keep pages locked. Nothing must be invalidated until
// a worker serves, but what waiting write(2)s have put into the cache already.
func (a *Answerer) Hold() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dev.Resend && a.mu.waiting == nil {
		a.mu.waiting = make(map[uint64]held)
		a.sweeper.Go(a.dropHalfWritten)
	}
}

// Holding reports whether requests may wait.
func (a *Answerer) Holding() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.waiting != nil
}

// hold keeps a request waiting, or ends the wait of one that is interrupted.
func (a *Answerer) hold(m message) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.waiting == nil {
		return false
	}
	if m.opcode() == opInterrupt {
		number := m.u64(0) &^ uniqueResend
		if h, ok := a.mu.waiting[number]; ok {
			delete(a.mu.waiting, number)
			a.reply(h.unique, syscall.EINTR)
		}
		return true
	}
	if !m.mayWait() {
		return false
	}
	a.mu.waiting[m.number()] = holding(m)
	if p, ok := m.filled(); ok {
		// The request keeps them, the cache does not. It may wait for a READ of
		// the same pages that waits, too.
		go func() { _ = invalidateSpan(int(a.dev.File.Fd()), p) }()
	}
	return true
}

// Done is closed when the Answerer has ended: by Stop, or because the file
// system was unmounted.
func (a *Answerer) Done() <-chan struct{} { return a.done }

// Stop ends answering, before a worker starts. It returns requests that were
// read meanwhile, for Server.Handle; later ones go to Forward.
func (a *Answerer) Stop() (forward [][]byte) {
	a.mu.Lock()
	if !a.mu.stopping {
		close(a.stop)
	}
	a.mu.stopping = true
	if !a.mu.ended {
		unix.Write(a.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	a.mu.Unlock()
	select {
	case <-a.done:
	case <-time.After(stopPatience):
	}
	a.sweeper.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.returned = true
	return a.mu.late
}

// run waits for requests and answers them, one after the other.
func (a *Answerer) run() {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.mu.ended = true
		unix.Close(a.wake)
		close(a.done)
	}()
	fd := int(a.dev.File.Fd())
	buf := make([]byte, bufferSize)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(a.wake), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			a.log.Error("wait for a FUSE request", "err", err)
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(fd, buf)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT):
			continue
		case gone(err):
			return
		default:
			a.log.Error("read a FUSE request", "err", err)
			return
		}
		if a.passOn(buf[:n]) {
			return
		}
		a.answer(buf[:n])
		clear(buf[:n]) // what a program wrote shall not stay here
	}
}

// passOn hands a request over if a worker is to have it.
func (a *Answerer) passOn(request []byte) bool {
	a.mu.Lock()
	stopping, returned := a.mu.stopping, a.mu.returned
	if stopping && !returned {
		a.mu.late = append(a.mu.late, append([]byte(nil), request...))
	}
	a.mu.Unlock()
	if returned {
		if a.Forward != nil {
			a.Forward(append([]byte(nil), request...))
		} else {
			a.answer(request)
		}
	}
	return stopping
}

// answer refuses one request.
func (a *Answerer) answer(m message) {
	if !m.valid() {
		a.log.Error("read a FUSE request: damaged header", "bytes", len(m))
		return
	}
	m.forgets(func(node, n uint64) { a.dev.Nodes.Remove(node, n) })
	if !a.hold(m) && m.wantsReply() {
		a.reply(m.unique(), refusal(m, a.errno()))
	}
}

func (a *Answerer) reply(unique uint64, errno syscall.Errno) {
	if err := reply(int(a.dev.File.Fd()), errorReply(unique, errno)); err != nil && !errors.Is(err, errGone) {
		a.log.Error("refuse a request", "err", err)
	}
}
