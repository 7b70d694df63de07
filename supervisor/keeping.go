package supervisor

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/worker"
)

const (
	// dropTimeout is how long the keeper may take to close a mount's descriptors
	// before it is replaced: as long as it has them, the mount cannot end.
	dropTimeout = 2 * time.Second
	// keeperPause is the pause before another keeper is started.
	keeperPause = 500 * time.Millisecond
)

// keeping is the supervisor's side of the keeper: it starts one, tells it the
// mounts, and starts another if it ends. One goroutine owns all of it.
type keeping struct {
	command []string // argv without the lock's path
	lock    string
	log     *slog.Logger

	ops   chan func() // done by the goroutine, one at a time
	ended chan struct{}

	mounts map[uint32]*entrusted
	conn   *worker.Conn // nil = no keeper runs
	cmd    *exec.Cmd
	gone   chan struct{} // closed when the keeper has ended
	kept   chan uint32   // its answers
}

// entrusted is what the keeper is told of one mount.
type entrusted struct {
	hold   keepHold
	files  []*os.File // the device and the node table, which belong to the mount
	worker *keepWorker
	pidfd  *os.File
}

// startKeeping starts the keeper of a state directory.
func startKeeping(command []string, lock string, log *slog.Logger) *keeping {
	k := &keeping{
		command: command, lock: lock, log: log,
		ops: make(chan func()), ended: make(chan struct{}), mounts: map[uint32]*entrusted{},
	}
	go k.run()
	return k
}

// keeperLock is the file that the keeper locks while it lives.
func keeperLock(stateDir string) string { return filepath.Join(stateDir, "keeper.lock") }

func (k *keeping) run() {
	defer close(k.ended)
	k.start()
	for {
		var again <-chan time.Time
		if k.conn == nil {
			again = time.After(keeperPause)
		}
		select {
		case op, ok := <-k.ops:
			if !ok {
				k.stop()
				return
			}
			op()
		case <-k.gone:
			k.log.Error("the keeper has ended; starting another")
			k.forget()
		case <-again:
			k.start()
		}
	}
}

// do has the goroutine do something and waits for it.
func (k *keeping) do(f func()) {
	done := make(chan struct{})
	k.ops <- func() { defer close(done); f() }
	<-done
}

// hold gives the keeper a mount.
func (k *keeping) hold(h keepHold, device, nodes *os.File) {
	k.do(func() {
		m := &entrusted{hold: h, files: []*os.File{device, nodes}}
		k.mounts[h.ID] = m
		k.tell(m)
	})
}

// serves tells the keeper which worker serves a mount from now on.
func (k *keeping) serves(id uint32, w *workerProcess) {
	fd, err := unix.PidfdOpen(w.pid, 0)
	if err != nil {
		return // it has ended, or the kernel is older than 5.3
	}
	pidfd := os.NewFile(uintptr(fd), "worker")
	select {
	case <-w.dead:
		pidfd.Close() // of whoever has its number now, perhaps
		return
	default:
	}
	k.do(func() {
		m := k.mounts[id]
		if m == nil {
			pidfd.Close()
			return
		}
		if m.pidfd != nil {
			m.pidfd.Close()
		}
		m.worker, m.pidfd = &keepWorker{ID: id, PID: w.pid}, pidfd
		k.tellWorker(m)
	})
}

// drop takes a mount that ends from the keeper: when it returns, the keeper has
// none of its descriptors.
func (k *keeping) drop(id uint32) {
	k.do(func() {
		m := k.mounts[id]
		delete(k.mounts, id)
		if m != nil && m.pidfd != nil {
			m.pidfd.Close()
		}
		if k.conn == nil {
			return
		}
		k.send(keep{Drop: &keepDrop{ID: id}})
		timeout := time.After(dropTimeout)
		for {
			select {
			case got := <-k.kept:
				if got == id {
					return
				}
			case <-k.gone:
				return // run sees it, too
			case <-timeout:
				k.log.Error("the keeper does not answer; killing it", "keeper", k.cmd.Process.Pid)
				_ = k.cmd.Process.Kill()
				<-k.gone
				return
			}
		}
	})
}

// close ends the keeper, which has no mounts any more.
func (k *keeping) close() {
	close(k.ops)
	<-k.ended
}

// start starts a keeper and tells it everything.
func (k *keeping) start() {
	conn, far, err := worker.Pair()
	if err != nil {
		k.log.Error("start the keeper", "err", err)
		return
	}
	defer far.Close()
	cmd := exec.Command(k.command[0], append(append([]string(nil), k.command[1:]...), k.lock)...)
	cmd.Args[0] = os.Args[0] // what ps shows
	cmd.ExtraFiles = []*os.File{far}
	cmd.Stderr = os.Stderr
	cmd.Env = workerEnv()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives us and our terminal
	if err := cmd.Start(); err != nil {
		conn.Close()
		k.log.Error("start the keeper", "err", err)
		return
	}
	gone, answers := make(chan struct{}), make(chan uint32)
	go func() {
		defer close(gone)
		for {
			var a kept
			if _, err := conn.Receive(&a); err != nil {
				break
			}
			select {
			case answers <- a.ID:
			case <-time.After(dropTimeout): // nobody waits for it any more
			}
		}
		_ = cmd.Process.Kill() // without its socket it is of no use
		_ = cmd.Wait()
	}()
	k.conn, k.cmd, k.gone, k.kept = conn, cmd, gone, answers
	for _, m := range k.mounts {
		k.tell(m)
	}
}

// forget forgets a keeper that has ended.
func (k *keeping) forget() {
	k.conn.Close()
	k.conn, k.cmd, k.gone, k.kept = nil, nil, nil, nil
}

// stop ends the keeper by closing its socket.
func (k *keeping) stop() {
	if k.conn == nil {
		return
	}
	k.conn.Close()
	<-k.gone
}

func (k *keeping) tell(m *entrusted) {
	k.send(keep{Hold: &m.hold}, m.files...)
	k.tellWorker(m)
}

func (k *keeping) tellWorker(m *entrusted) {
	if m.worker != nil {
		k.send(keep{Worker: m.worker}, m.pidfd)
	}
}

// send tells the keeper something. One that does not take it is replaced.
func (k *keeping) send(m keep, files ...*os.File) {
	if k.conn == nil {
		return
	}
	if err := k.conn.Send(m, files...); err != nil && !errors.Is(err, unix.EPIPE) {
		k.log.Error("tell the keeper", "err", err)
		_ = k.cmd.Process.Kill()
	}
}
