// Package child runs the processes of a drill that touch the volume: each talks
// by lines over its standard input and output, and none can make the drill
// wait, whatever it waits for itself.
package child

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Child is one process.
type Child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{}
	err   error // of its end; set before ended is closed
	said  limited
}

// limited keeps the first words of a process's standard error.
type limited struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	const most = 4 << 10
	l.mu.Lock()
	defer l.mu.Unlock()
	if room := most - l.b.Len(); room > 0 {
		l.b.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(l.b.String())
}

// killWait is how long a process that was killed is waited for. One that the
// kernel keeps in a call stays behind until that ends.
const killWait = 5 * time.Second

// Start starts a process; line is called for each line that it prints, by one
// goroutine.
func Start(program string, args []string, line func([]byte)) (*Child, error) {
	c := &Child{cmd: exec.Command(program, args...), ended: make(chan struct{})}
	c.cmd.Stderr = &c.said
	c.cmd.WaitDelay = time.Second
	c.cmd.Dir = "/"
	// A Ctrl-C is for the drill, which ends its processes in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			line(lines.Bytes())
		}
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// Tell sends a line.
func (c *Child) Tell(command string) error {
	_, err := io.WriteString(c.in, command+"\n")
	return err
}

// Wait closes the process's input and waits for its end, which it is killed for
// after limit.
func (c *Child) Wait(limit time.Duration) error {
	c.in.Close()
	select {
	case <-c.ended:
		if c.err != nil && c.said.String() != "" {
			return fmt.Errorf("%w: %s", c.err, c.said.String())
		}
		return c.err
	case <-time.After(limit):
		c.Kill()
		return errors.New("it does not end")
	}
}

// Kill ends the process.
func (c *Child) Kill() {
	_ = c.cmd.Process.Kill()
	select {
	case <-c.ended:
	case <-time.After(killWait):
	}
}

// Ended is closed when the process has ended.
func (c *Child) Ended() <-chan struct{} { return c.ended }
