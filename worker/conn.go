package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxPacket is the largest message, in bytes; the socket's send buffer
	// takes it whole.
	maxPacket = 128 << 10
	// forwardPart is how much of a FUSE request travels in one message: its
	// base64 form and the envelope stay under maxPacket.
	forwardPart = 64 << 10
)

// Conn is one end of a control socket. Send may be called by several
// goroutines, Receive by one.
type Conn struct {
	socket *net.UnixConn
	mu     sync.Mutex // one sender: the parts of a forwarded request stay together
	buf    []byte     // owned by Receive
}

// Pair makes a control socket: the supervisor's end, and the end to hand to
// the worker as FDControl.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	far := os.NewFile(uintptr(fds[1]), "control")
	conn, err := NewConn(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		far.Close()
		return nil, nil, err
	}
	return conn, far, nil
}

// NewConn makes a Conn of an end of a socket pair, and takes the file over.
func NewConn(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	socket, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("control socket: not a Unix socket")
	}
	return &Conn{socket: socket, buf: make([]byte, maxPacket)}, nil
}

// Send sends one message: a Request or a Reply.
func (c *Conn) Send(m any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(m)
}

func (c *Conn) sendLocked(m any) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if len(b) > maxPacket {
		return fmt.Errorf("control socket: message of %d bytes", len(b))
	}
	if _, err := c.socket.Write(b); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// SendForward hands a FUSE request to the worker.
func (c *Conn) SendForward(request []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		n := min(len(request), forwardPart)
		part := &Forward{Part: request[:n], Last: n == len(request)}
		if err := c.sendLocked(Request{Forward: part}); err != nil {
			return err
		}
		if request = request[n:]; part.Last {
			return nil
		}
	}
}

// Receive reads the next message into m. It returns io.EOF when the other
// process has ended.
func (c *Conn) Receive(m any) error {
	n, _, flags, _, err := c.socket.ReadMsgUnix(c.buf, nil)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || err == nil && n == 0:
		return io.EOF
	case err != nil:
		return fmt.Errorf("control socket: %w", err)
	case flags&unix.MSG_TRUNC != 0:
		return errors.New("control socket: message too long")
	}
	if err := json.Unmarshal(c.buf[:n], m); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Close closes the socket; a Receive that waits returns an error.
func (c *Conn) Close() error { return c.socket.Close() }
