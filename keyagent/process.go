package keyagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/hsm"
)

// end says why a call got no reply.
type end int

const (
	endNone      end = iota // there is a reply
	endDied                 // the process ended by itself
	endHung                 // we killed it for not answering some call
	endDeadline             // we killed it for not answering this call
	endCancelled            // the caller gave up; the process lives
	endClosed               // Client.Close
	endRetired              // replaced between calls; none sees it
)

// process is one life of the agent.
type process struct {
	cmd  *exec.Cmd
	conn *net.UnixConn
	log  *slog.Logger
	dead chan struct{} // closed when the process is reaped and no reply can come any more

	// Guarded by Client.mu.
	calls int         // under way
	timer *time.Timer // since the first call; nil = there was none
	due   bool        // to be replaced when no call is under way

	mu struct {
		sync.Mutex
		nextID  uint64
		pending map[uint64]*waiter
		why     end // set before dead is closed
		exit    error
	}
}

// waiter is a call under way.
type waiter struct {
	accepted chan struct{} // closed when the agent has read the request
	once     sync.Once     // closes it: the agent's messages are not trusted
	ch       chan reply    // room for one; closed without a value when the process ended
	keys     []hsm.Info    // of the parts that have come
}

// acceptWithin is how long a live agent may take to read a request. It is long
// because the machine may be busy.
const acceptWithin = 5 * time.Second

// start runs the agent with its end of the socket pair as SocketFD.
func start(cfg Config) (*process, error) {
	if len(cfg.Command) == 0 {
		return nil, errors.New("keyagent: no command configured")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keyagent: socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "key agent"), os.NewFile(uintptr(fds[1]), "key agent's end")
	defer theirs.Close()
	c, err := net.FileConn(ours) // a duplicate, so ours is closed in any case
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("keyagent: socket: %w", err)
	}
	p := &process{conn: c.(*net.UnixConn), log: cfg.Log, dead: make(chan struct{})}
	p.mu.pending = map[uint64]*waiter{}
	p.cmd = exec.Command(cfg.Command[0], cfg.Command[1:]...)
	p.cmd.Args[0] = os.Args[0]            // what ps shows
	p.cmd.ExtraFiles = []*os.File{theirs} // SocketFD
	p.cmd.Stderr = &lineLogger{log: cfg.Log}
	// A Ctrl-C at the terminal is for the supervisor.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.conn.Close()
		return nil, fmt.Errorf("keyagent: %w", err)
	}
	cfg.Log.Debug("key agent started", "pid", p.cmd.Process.Pid)
	go p.read()
	return p, nil
}

// read is the process's one goroutine: it hands out replies until the socket
// ends, reaps the process and fails the calls that are left.
func (p *process) read() {
	buf := make([]byte, maxMessage)
	for {
		n, err := p.conn.Read(buf)
		if err != nil || n == 0 {
			break
		}
		var r reply
		if err := json.Unmarshal(buf[:n], &r); err != nil {
			p.log.Error("key agent sent a malformed message", "err", err)
			break
		}
		p.deliver(r)
	}
	p.conn.Close()
	// An agent whose socket is closed is of no use, whatever it still does.
	_ = p.cmd.Process.Kill()
	exit := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.why == endNone {
		p.mu.why = endDied
		p.log.Warn("key agent ended", "pid", p.cmd.Process.Pid, "err", exit)
	}
	p.mu.exit = exit
	close(p.dead)
	for id, w := range p.mu.pending {
		delete(p.mu.pending, id)
		close(w.ch)
	}
}

// deliver gives a reply to its caller, once all its parts are there.
func (p *process) deliver(r reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.mu.pending[r.ID]
	if !ok {
		return // the caller has given up
	}
	if r.Accepted {
		w.once.Do(func() { close(w.accepted) })
		return
	}
	w.keys = append(w.keys, r.Keys...)
	if r.More {
		return
	}
	r.Keys = w.keys
	delete(p.mu.pending, r.ID)
	w.ch <- r
}

func (p *process) ended() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

func (p *process) exitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.exit
}

// kill ends the process; the first reason given is the one that is kept.
func (p *process) kill(why end) {
	p.mu.Lock()
	if p.mu.why == endNone {
		p.mu.why = why
	}
	p.mu.Unlock()
	_ = p.cmd.Process.Kill()
}

// roundTrip sends one request and waits for the reply, the end of the process
// or the end of the context; an agent that does not even read the request is
// killed earlier. The error is for a request that cannot be sent.
func (p *process) roundTrip(ctx context.Context, req request, file *os.File) (reply, end, error) {
	deadline, _ := ctx.Deadline() // call has set one
	left := time.Until(deadline)
	req.Millis = (left - min(left/10, time.Second)).Milliseconds()

	w := &waiter{accepted: make(chan struct{}), ch: make(chan reply, 1)}
	p.mu.Lock()
	if p.ended() {
		defer p.mu.Unlock()
		return reply{}, p.mu.why, nil
	}
	p.mu.nextID++
	req.ID = p.mu.nextID
	p.mu.pending[req.ID] = w
	p.mu.Unlock()

	if err := p.send(req, file, deadline); err != nil {
		p.forget(req.ID)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return reply{}, p.hung(req), nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, net.ErrClosed):
			<-p.dead
			return reply{}, p.reason(), nil
		}
		return reply{}, endNone, err
	}
	accepted := w.accepted
	unread := time.NewTimer(acceptWithin)
	defer unread.Stop()
	for {
		select {
		case <-accepted:
			accepted = nil // known by now
			unread.Stop()
		case r, ok := <-w.ch:
			if !ok {
				return reply{}, p.reason(), nil
			}
			return r, endNone, nil
		case <-unread.C:
			p.forget(req.ID)
			p.hung(req)
			return reply{}, endHung, nil // not because of this request
		case <-ctx.Done():
			p.forget(req.ID)
			if errors.Is(ctx.Err(), context.Canceled) {
				return reply{}, endCancelled, nil
			}
			return reply{}, p.hung(req), nil
		}
	}
}

// send writes one message; it does not wait for a full socket past deadline.
func (p *process) send(req request, file *os.File, deadline time.Time) error {
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("request of %d bytes is too long", len(b))
	}
	if file != nil {
		raw, err := file.SyscallConn() // Fd() would make the file blocking
		if err != nil {
			return err
		}
		var sent error
		if err := raw.Control(func(fd uintptr) {
			sent = p.write(b, unix.UnixRights(int(fd)), deadline)
		}); err != nil {
			return err
		}
		return sent
	}
	return p.write(b, nil, deadline)
}

func (p *process) write(b, oob []byte, deadline time.Time) error {
	if err := p.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, _, err := p.conn.WriteMsgUnix(b, oob, nil)
	return err
}

// forget drops a call whose caller no longer waits.
func (p *process) forget(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.pending, id)
}

// hung kills the process because req was not answered in time.
func (p *process) hung(req request) end {
	p.log.Warn("key agent does not answer, replacing it", "pid", p.cmd.Process.Pid, "op", req.Op)
	p.kill(endHung)
	return endDeadline
}

func (p *process) reason() end {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.why
}

// lineLogger turns the agent's standard error into log lines.
type lineLogger struct {
	log  *slog.Logger
	line []byte
}

func (l *lineLogger) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\n' {
			l.line = append(l.line, c)
			if len(l.line) < 4096 {
				continue
			}
		}
		if s := strings.TrimSpace(string(l.line)); s != "" {
			l.log.Warn("key agent: " + s)
		}
		l.line = l.line[:0]
	}
	return len(b), nil
}
