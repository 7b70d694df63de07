package keyagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/hsm"
)

// Serve is the agent process: it answers requests that arrive at the socket fd
// until the other end is closed, and must then be followed by the process's
// end. It must be called before the process does anything else, because it
// gives up privileges and executes the program again with the same arguments,
// which must lead here again. A request is answered when its time is up even if its key is not done.
func Serve(fd int) error {
	if err := confine(); err != nil {
		return err
	}
	if err := harden(); err != nil {
		return err
	}
	// The kernel's name for a program executed through /proc is "exe".
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "supervisor")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("keyagent: descriptor %d is no socket: %w", fd, err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("keyagent: descriptor %d is no Unix socket", fd)
	}
	defer conn.Close()
	s := &server{conn: conn}
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*4))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		if errors.Is(err, io.EOF) || (err == nil && n == 0) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("keyagent: reading a request: %w", err)
		}
		to, err := received(oob[:oobn])
		if err != nil {
			return err
		}
		var req request
		if err := json.Unmarshal(buf[:n], &req); err != nil {
			return fmt.Errorf("keyagent: malformed request: %w", err)
		}
		s.write(reply{ID: req.ID, Accepted: true})
		// Not waited for: a module may hold its goroutine for ever, and the end
		// of the process is what ends it.
		go s.serve(req, to)
	}
}

// received returns the one descriptor of a message, -1 if it has none.
func received(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("keyagent: control message: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("keyagent: descriptor: %w", err)
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

type server struct {
	conn *net.UnixConn // writes are whole messages, so they need no lock
}

// serve runs one request and sends its reply, or an error once time is up.
func (s *server) serve(req request, to int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(req.Millis)*time.Millisecond)
	defer cancel()
	var once sync.Once
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) || req.busyIsHung() {
			return
		}
		once.Do(func() {
			s.send(reply{ID: req.ID, Error: toWire(req.Op, unreachable(req.Op, "Deadline", "The key did not answer in time", ctx.Err()))})
		})
	})
	defer stop()
	r := perform(ctx, req, to)
	if to >= 0 {
		unix.Close(to)
	}
	once.Do(func() { s.send(r) })
}

// busyIsHung tells sources whose code cannot be interrupted: an agent stuck in
// it must not answer, so that it is replaced.
func (r request) busyIsHung() bool {
	return r.Key.Source == hsm.SourcePKCS11 || r.From != nil && r.From.Key.Source == hsm.SourcePKCS11
}

// send writes the reply, a long list of keys in parts. If the supervisor is
// gone there is nobody to tell, and reading notices it.
func (s *server) send(r reply) {
	r.Error.shorten()
	for len(r.Keys) > keysPerReply {
		s.write(reply{ID: r.ID, More: true, Keys: r.Keys[:keysPerReply]})
		r.Keys = r.Keys[keysPerReply:]
	}
	s.write(r)
}

func (s *server) write(r reply) {
	b, err := json.Marshal(r)
	if err == nil && len(b) > maxMessage {
		err = fmt.Errorf("reply of %d bytes is too long", len(b))
	}
	if err != nil {
		b, _ = json.Marshal(reply{ID: r.ID, Error: toWire("reply", err)})
	}
	_, _ = s.conn.Write(b)
}

// shorten keeps an error's texts within a message.
func (w *wireError) shorten() {
	if w == nil {
		return
	}
	for _, s := range []*string{&w.KeyID, &w.Message, &w.Hint, &w.Cause} {
		if len(*s) > 4096 {
			*s = (*s)[:4096] + "…"
		}
	}
}
