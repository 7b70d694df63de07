package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/fs"
	"cmkfs/worker"
)

// The keeper is the second holder of every mount's descriptor: a small process
// that does nothing while the supervisor lives. When the supervisor is gone it
// waits until the workers have suspended their volumes, answers what nobody
// answers any more, takes what is left out of the kernel's caches, and lets the
// mounts go. Without it a worker that is killed at that time would leave readers
// hanging and plaintext in the page cache.

// keep is a message to the keeper. Exactly one field is set.
type keep struct {
	Hold   *keepHold   `json:"hold,omitempty"`   // a mount; carries its descriptor and its node table
	Worker *keepWorker `json:"worker,omitempty"` // who serves it now; carries a pidfd
	Drop   *keepDrop   `json:"drop,omitempty"`   // the mount has ended; answered with kept
}

type keepHold struct {
	ID     uint32 `json:"id"` // the connection's number
	Label  string `json:"label"`
	Errno  int    `json:"errno"` // for requests that nobody else answers
	Resend bool   `json:"resend"`
}

type keepWorker struct {
	ID  uint32 `json:"id"`
	PID int    `json:"pid"`
}

type keepDrop struct {
	ID uint32 `json:"id"`
}

// kept answers a drop: the descriptors are closed.
type kept struct {
	ID uint32 `json:"id"`
}

// The keeper inherits its end of the socket; its argument is the file that it
// locks for as long as it lives.
const keeperFD = 3

// Keep is the whole of the keeper process.
func Keep(lock string) error {
	// A service manager that ends us all must not end this before the others.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	conn, err := worker.NewConn(os.NewFile(keeperFD, "keeper"))
	if err != nil {
		return fmt.Errorf("this command is started by cmkfsd serve, not by hand: %w", err)
	}
	if err := harden(); err != nil {
		return err
	}
	f, err := os.OpenFile(lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	// Taken if the keeper before could not end; then nobody waits for this one.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	// It is small, and of no use unless it lives longest. Without the privilege
	// it is as likely to be chosen as any other process.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)

	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("proc", "keeper", "pid", os.Getpid())
	mounts := map[uint32]*keptMount{}
	for {
		var m keep
		files, err := conn.Receive(&m)
		if err != nil {
			break // the supervisor is gone
		}
		switch {
		case m.Hold != nil && len(files) == 2:
			nodes, err := fs.OpenNodeTable(files[1])
			if err != nil {
				return err
			}
			mounts[m.Hold.ID] = &keptMount{
				device: &fs.Device{File: files[0], Nodes: nodes, Resend: m.Hold.Resend, Conn: m.Hold.ID},
				errno:  syscall.Errno(m.Hold.Errno), log: log.With("vol", m.Hold.Label),
			}
		case m.Worker != nil && len(files) == 1 && mounts[m.Worker.ID] != nil:
			mounts[m.Worker.ID].serves(m.Worker.PID, files[0])
		case m.Drop != nil:
			if k := mounts[m.Drop.ID]; k != nil {
				delete(mounts, m.Drop.ID)
				k.close()
			}
			_ = conn.Send(kept(*m.Drop)) // if nobody hears it, the next Receive says so
		default:
			return errors.New("keeper: a message that is not understood")
		}
	}
	var wait sync.WaitGroup
	for _, k := range mounts {
		wait.Go(k.end)
	}
	wait.Wait()
	return nil
}

// keptMount is a mount as the keeper knows it.
type keptMount struct {
	device *fs.Device
	errno  syscall.Errno
	log    *slog.Logger
	pid    int      // of the worker that serves it, or served it last
	worker *os.File // its pidfd; nil = there was none
}

func (k *keptMount) serves(pid int, pidfd *os.File) {
	if k.worker != nil {
		k.worker.Close()
	}
	k.pid, k.worker = pid, pidfd
}

func (k *keptMount) close() {
	if k.worker != nil {
		k.worker.Close()
	}
	if err := k.device.Close(); err != nil {
		k.log.Error("let go of the mount", "err", err)
	}
}

const (
	// orphanEnd is how long a worker without a supervisor may take: the drain, and
	// the disk.
	orphanEnd = 10 * time.Second
	// keeperSweep bounds the sweep over the kernel's caches.
	keeperSweep = 30 * time.Second
	// stuckEnd is how long a worker that could not die may take once what it
	// waited for is answered. If it is the disk that it waits for, it does not end.
	stuckEnd = 100 * time.Millisecond
)

// end ends a mount whose supervisor is gone.
func (k *keptMount) end() {
	defer k.close()
	if !k.device.Alive() {
		return
	}
	stuck := k.awaitWorker()
	k.log.Warn("the supervisor is gone; ending access to its mount", "stuckWorker", stuck)
	a := fs.StartAnswerer(k.device, k.errno, k.log)
	ctx, cancel := context.WithTimeout(context.Background(), keeperSweep)
	defer cancel()
	if stuck {
		stuck = !k.pollWorker(stuckEnd)
	}
	swept := make(chan error, 1)
	go func() {
		_, err := k.device.InvalidateAll(ctx)
		swept <- err
	}()
	var err error
	select {
	case err = <-swept:
	case <-time.After(keeperSweep):
		err = errors.Join(context.DeadlineExceeded, k.device.Abort())
	}
	if err != nil {
		k.log.Error("cannot drop the kernel's caches", "err", err)
	}
	if stuck && !k.pollWorker(0) {
		// It has the descriptor, too, and would let nobody know that it is gone.
		if err := k.device.Abort(); err != nil {
			k.log.Error("end the mount", "err", err)
		}
	}
	a.Stop() // what it has read and not answered ends with the descriptor
}

// awaitWorker waits until no worker serves the mount any more. One that does not
// end, or does not run, is killed. It reports whether the worker is left because
// it cannot die: until somebody answers for it.
func (k *keptMount) awaitWorker() (stuck bool) {
	if k.worker == nil {
		return false
	}
	killAt, looks := time.Now().Add(orphanEnd), 0
	for !k.pollWorker(endLook) {
		switch {
		case dying(k.pid):
			if looks++; looks >= dyingLooks {
				return true
			}
		case stopped(k.pid) || time.Now().After(killAt):
			k.log.Warn("a worker without a supervisor does not end; killing it", "worker", k.pid)
			_ = unix.PidfdSendSignal(int(k.worker.Fd()), unix.SIGKILL, nil, 0)
		}
	}
	return false
}

// pollWorker waits for the worker's end and reports whether it has come.
func (k *keptMount) pollWorker(within time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(k.worker.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(within.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return true // nothing can be learnt of it
	}
	return n > 0
}
