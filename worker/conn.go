package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPacket is the largest message, in bytes; the socket's send buffer
	// takes it whole.
	maxPacket = 128 << 10
	// forwardPart is how much of a FUSE request travels in one message: its
	// base64 form and the envelope stay under maxPacket.
	forwardPart = 64 << 10
	// sendTimeout bounds a Send to a process that does not read.
	sendTimeout = 10 * time.Second
	// maxFiles is how many descriptors may travel with a message.
	maxFiles = 4
)

// Conn is one end of a control socket. Send may be called by several
// goroutines, Receive by one.
type Conn struct {
	socket *net.UnixConn
	mu     sync.Mutex // one sender: the parts of a forwarded request stay together
	buf    []byte     // owned by Receive
	oob    []byte     // likewise
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
	return &Conn{socket: socket, buf: make([]byte, maxPacket), oob: make([]byte, unix.CmsgSpace(maxFiles*4))}, nil
}

// Send sends one message, a Request or a Reply, with copies of descriptors.
func (c *Conn) Send(m any, files ...*os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(m, files...)
}

func (c *Conn) sendLocked(m any, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if len(b) > maxPacket {
		return fmt.Errorf("control socket: message of %d bytes", len(b))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	// Somebody who reads nothing for so long is as good as dead.
	if err = c.socket.SetWriteDeadline(time.Now().Add(sendTimeout)); err == nil {
		_, _, err = c.socket.WriteMsgUnix(b, rights, nil)
	}
	runtime.KeepAlive(files)
	if err != nil {
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

// Receive reads the next message into m and returns the descriptors that came
// with it. It returns io.EOF when the other process has ended.
func (c *Conn) Receive(m any) ([]*os.File, error) {
	n, oobn, flags, _, err := c.socket.ReadMsgUnix(c.buf, c.oob)
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || err == nil && n == 0 {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	files, err := filesOf(c.oob[:oobn])
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return files, errors.New("control socket: message too long")
	}
	if err := json.Unmarshal(c.buf[:n], m); err != nil {
		return files, fmt.Errorf("control socket: %w", err)
	}
	return files, nil
}

// filesOf returns the descriptors in a control message.
func filesOf(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// Close closes the socket; a Receive that waits returns an error.
func (c *Conn) Close() error { return c.socket.Close() }
