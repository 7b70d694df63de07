package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/fs"
	"cmkfs/hsm"
	"cmkfs/keyagent"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// aek finds an account encryption key by the id a superblock names.
type aek func(id string) (*account.AEKRecord, error)

// spawner starts worker processes.
type spawner struct {
	command []string // argv of the worker command, without its own arguments
	agent   *keyagent.Client
	log     *slog.Logger
	stderr  io.Writer // of the workers; nil = ours
}

// workerProcess is one life of a worker.
type workerProcess struct {
	pid    int
	aekID  string // the account encryption key its key is sealed under
	conn   *worker.Conn
	cmd    *exec.Cmd
	log    *slog.Logger
	sealed chan worker.Sealed // which key it needs
	ready  chan struct{}      // closed when the worker has opened the volume
	dead   chan struct{}      // closed when it is reaped; exit is set then

	position   atomic.Pointer[worker.Position] // the last it told
	unanswered atomic.Int32                    // pings since the last pong
	closed     atomic.Bool                     // it has reported that it lets nothing through

	readyOnce sync.Once // a worker is not trusted to say it only once

	// onReply, if set, gets the replies of a check as they come.
	onReply func(worker.Reply)

	mu struct {
		sync.Mutex
		failed    *worker.Failed
		suspended *worker.Suspended
		done      *worker.Done
		stats     []chan worker.Stats // who waits for an answer

		keyRequests uint64                  // numbers them
		keyWaits    uint64                  // the request that keyAnswer waits for; one at a time
		keyAnswer   chan<- worker.KeyAnswer // room for one
		exit        error                   // set before dead is closed
	}
}

// start runs a worker, sends its first message and has the key agent hand it
// its key. The worker is killed if any of this fails; the error is an
// *hsm.Error if it is the key that cannot be had.
func (s *spawner) start(ctx context.Context, start worker.Start, find aek, onReply func(worker.Reply)) (*workerProcess, error) {
	conn, far, err := worker.Pair()
	if err != nil {
		return nil, err
	}
	defer far.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("key socket: %w", err)
	}
	keyNear, keyFar := os.NewFile(uintptr(fds[0]), "key"), os.NewFile(uintptr(fds[1]), "key")
	// With our copies closed, nobody can read the key but the worker.
	defer keyNear.Close()
	defer keyFar.Close()

	args := append(append([]string(nil), s.command[1:]...), worker.Args(start.Dir)...)
	cmd := exec.Command(s.command[0], args...)
	cmd.Args[0] = os.Args[0]                 // what ps shows
	cmd.ExtraFiles = []*os.File{far, keyFar} // worker.FDControl, worker.FDKey
	cmd.Stderr = os.Stderr
	if s.stderr != nil {
		cmd.Stderr = s.stderr
	}
	cmd.Env = workerEnv()
	// A Ctrl-C at the terminal is for the supervisor, which unmounts first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	keyFar.Close()
	far.Close()
	p := &workerProcess{
		pid: cmd.Process.Pid, conn: conn, cmd: cmd, onReply: onReply,
		log:    s.log.With("vol", start.Label, "worker", cmd.Process.Pid),
		sealed: make(chan worker.Sealed, 1), ready: make(chan struct{}), dead: make(chan struct{}),
	}
	go p.receive()
	err = conn.Send(worker.Request{Start: &start})
	if err == nil {
		err = s.release(ctx, p, start, find, keyNear)
	}
	if err != nil {
		select {
		case <-p.dead: // which says more than that it could not be reached
			err = p.failure()
		case <-time.After(deathWait):
			p.stop()
		}
		return nil, err
	}
	return p, nil
}

// deathWait is how long after an error of a start the worker's own end may
// show, which explains it.
const deathWait = 20 * time.Millisecond

// release has the key agent hand the worker its key.
func (s *spawner) release(ctx context.Context, p *workerProcess, start worker.Start, find aek, to *os.File) error {
	var sealed worker.Sealed
	switch {
	case start.Mode == worker.ModeReseal:
		return nil // it needs none
	case start.Format != nil:
		sealed = start.Format.Sealed
	default:
		select {
		case sealed = <-p.sealed:
		case <-p.dead:
			p.mu.Lock()
			done := p.mu.done != nil
			p.mu.Unlock()
			if done {
				return nil // a check that ended before it needed the key
			}
			return p.failure()
		case <-ctx.Done():
			return fmt.Errorf("the volume worker did not start in time: %w", ctx.Err())
		}
	}
	p.aekID = sealed.AEKID
	for {
		record, err := find(sealed.AEKID)
		if err != nil {
			return err
		}
		err = s.agent.Release(ctx, record.Key, record.ID, stored(record),
			sealed.VolumeID, keyagent.VEK{Sealed: sealed.VEK, Commitment: sealed.Commitment}, to)
		if err == nil {
			return nil
		}
		now, ferr := find(sealed.AEKID)
		if ferr != nil || hsm.SameKeyID(now.Wrapped.KeyID, record.Wrapped.KeyID) {
			return err
		}
		// The customer's key was replaced meanwhile and may be disabled since.
	}
}

// workerEnv is what a worker sees of the environment: the Go runtime's
// settings.
func workerEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "GO") {
			env = append(env, v)
		}
	}
	return env
}

// waitReady waits until the worker has opened the volume.
func (p *workerProcess) waitReady(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-p.dead:
		return p.failure()
	case <-ctx.Done():
		p.stop()
		return fmt.Errorf("the volume worker did not open the volume in time: %w", ctx.Err())
	}
}

// waitDone waits for the end of a format or a check.
func (p *workerProcess) waitDone(ctx context.Context) (worker.Done, error) {
	select {
	case <-p.dead:
	case <-ctx.Done():
		p.stop()
		return worker.Done{}, ctx.Err()
	}
	p.mu.Lock()
	done := p.mu.done
	p.mu.Unlock()
	if done == nil {
		return worker.Done{}, p.failure()
	}
	return *done, nil
}

// codes are the API's codes for what a worker says.
var codes = map[worker.Class]api.Code{
	worker.ClassKey:     api.CodeMisconfigured,
	worker.ClassLocked:  api.CodeBusy,
	worker.ClassOlder:   api.CodeCorrupt,
	worker.ClassLost:    api.CodeCorrupt,
	worker.ClassCorrupt: api.CodeCorrupt,
	worker.ClassVersion: api.CodeVersion,
	worker.ClassSpace:   api.CodeFailed,
	worker.ClassOther:   api.CodeFailed,
}

// failure says why a dead worker did not do what it was asked.
func (p *workerProcess) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.mu.failed; f != nil {
		if f.Class == worker.ClassLocked {
			return api.Errorf(api.CodeBusy, "the volume is in use by another process")
		}
		if f.Class == worker.ClassOlder {
			return &api.Error{Code: api.CodeCorrupt, Message: f.Reason, Hint: "put the newest copy in its place; or go on with this one: cmkfsd volume mount --accept-older"}
		}
		if f.Class == worker.ClassLost {
			return api.Errorf(api.CodeCorrupt, f.Reason+": unmount the volume and mount it again to use what there was before")
		}
		return api.Errorf(codes[f.Class], f.Reason)
	}
	if p.mu.exit != nil {
		return fmt.Errorf("the volume worker ended unexpectedly: %w", p.mu.exit)
	}
	return errors.New("the volume worker ended unexpectedly")
}

// receive is the process's one goroutine: it takes in messages until the
// worker ends, and reaps it.
func (p *workerProcess) receive() {
	for {
		var r worker.Reply
		if _, err := p.conn.Receive(&r); err != nil {
			break
		}
		p.take(r)
	}
	// A worker whose socket is closed is of no use, whatever it still does.
	_ = p.cmd.Process.Kill()
	err := p.cmd.Wait()
	p.conn.Close()
	p.mu.Lock()
	p.mu.exit = err
	for _, c := range p.mu.stats {
		close(c)
	}
	p.mu.stats = nil
	p.mu.Unlock()
	close(p.dead)
}

func (p *workerProcess) take(r worker.Reply) {
	if p.onReply != nil {
		p.onReply(r)
	}
	if r.Position != nil {
		p.position.Store(r.Position)
	}
	p.unanswered.Store(0) // whatever it says, it is alive
	if r.Sealed != nil {
		// Nobody but our caller reaps the process, so it is still this one.
		if err := fs.SlowMonitor(p.pid); err != nil {
			p.log.Debug("the worker's runtime stays as it is", "err", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.Sealed != nil:
		select {
		case p.sealed <- *r.Sealed:
		default: // only the first counts
		}
	case r.Ready != nil:
		p.readyOnce.Do(func() { close(p.ready) })
	case r.Failed != nil:
		p.mu.failed = r.Failed
	case r.Closed != nil:
		p.closed.Store(true)
	case r.Suspended != nil:
		p.mu.suspended = r.Suspended
	case r.Done != nil:
		p.mu.done = r.Done
	case r.Stats != nil:
		for _, c := range p.mu.stats {
			c <- *r.Stats
		}
		p.mu.stats = nil
	case r.Key != nil:
		if p.mu.keyAnswer != nil && r.Key.ID == p.mu.keyWaits {
			p.mu.keyAnswer <- *r.Key
			p.mu.keyAnswer = nil
		}
	}
}

// stats asks the worker for its numbers; ok is false if it does not answer.
func (p *workerProcess) stats(ctx context.Context) (s worker.Stats, ok bool) {
	c := make(chan worker.Stats, 1)
	p.mu.Lock()
	p.mu.stats = append(p.mu.stats, c)
	p.mu.Unlock()
	if p.conn.Send(worker.Request{Stats: &worker.Ask{}}) != nil {
		return s, false
	}
	select {
	case s, ok = <-c:
		return s, ok
	case <-p.dead:
	case <-ctx.Done():
	}
	return s, false
}

// suspended returns what the worker reported before it ended, if it did.
func (p *workerProcess) suspended() *worker.Suspended {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.suspended
}

// exitCode returns the exit code of a dead worker, -1 for one that was killed.
func (p *workerProcess) exitCode() int {
	select {
	case <-p.dead:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// kill ends the worker at once; dead is closed soon after.
func (p *workerProcess) kill() { _ = p.cmd.Process.Kill() }

// stop kills the worker and waits until it is reaped, so that the volume's lock
// is free.
func (p *workerProcess) stop() {
	p.kill()
	<-p.dead
}
