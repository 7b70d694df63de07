package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// startTimeout is how long a daemon started in the background may take until
// it answers.
const startTimeout = 30 * time.Second

// readyFD is the descriptor to which a daemon started in the background writes
// one byte when it answers.
const readyFD = 3

// client returns a client of the daemon, which may not be running.
func (s *session) client() (*api.Client, *account.Dir, error) {
	d, err := s.dir()
	if err != nil {
		return nil, nil, err
	}
	if s.api == nil {
		s.api = api.NewClient(d.SocketPath())
	}
	return s.api, d, nil
}

// daemon returns a client of a daemon that runs. Every command that changes
// something goes through one, so that one process decides about a state
// directory; it is started in the background if it is not there.
func (s *session) daemon() (*api.Client, *account.Dir, error) {
	if _, err := account.Create(s.cli.StateDir); err != nil {
		return nil, nil, err
	}
	c, d, err := s.client()
	if err != nil {
		return nil, nil, err
	}
	_, err = c.Status(s.ctx)
	if !isNoDaemon(err) {
		return c, d, err
	}
	return c, d, s.startDaemon(c, d)
}

// daemonFor is daemon with the name of the account that is meant.
func (s *session) daemonFor() (*api.Client, string, error) {
	c, d, err := s.daemon()
	if err != nil {
		return nil, "", err
	}
	name, err := d.Resolve(s.cli.Account)
	return c, name, err
}

// runningDaemonFor is daemonFor without starting one: for what only makes sense
// for volumes that are mounted.
func (s *session) runningDaemonFor() (*api.Client, string, error) {
	c, d, err := s.client()
	if err != nil {
		return nil, "", err
	}
	if _, err := c.Status(s.ctx); err != nil {
		return nil, "", err
	}
	name, err := d.Resolve(s.cli.Account)
	return c, name, err
}

func isNoDaemon(err error) bool {
	return err != nil && api.ErrorOf(err).Code == api.CodeNoDaemon
}

// startDaemon runs "cmkfsd serve" in the background, in a session of its own
// and with its log in the state directory, and waits until it says that it is
// ready. If somebody else started one meanwhile, that one is as good.
func (s *session) startDaemon(c *api.Client, d *account.Dir) error {
	log, err := os.OpenFile(d.LogPath(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	defer log.Close()
	logged, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	defer r.Close()

	cmd := exec.Command("/proc/self/exe", "serve", "--state-dir", d.Path(), fmt.Sprintf("--ready-fd=%d", readyFD))
	cmd.Args[0] = "cmkfsd"
	cmd.Dir = "/" // a working directory would keep its file system busy
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready := make(chan struct{})
	go func() {
		if n, _ := r.Read(make([]byte, 1)); n == 1 { // else it ended, or we gave up
			close(ready)
		}
	}()

	ctx, cancel := context.WithTimeout(s.ctx, startTimeout)
	defer cancel()
	select {
	case <-ready:
		return nil
	case err := <-ended:
		if waitForDaemon(ctx, c) == nil {
			return nil
		}
		return &hinted{fmt.Errorf("the daemon could not be started: %s", lastLine(log, logged, err)), "see its log: " + d.LogPath()}
	case <-ctx.Done():
		return &hinted{fmt.Errorf("the daemon (process %d) is not ready after %s", cmd.Process.Pid, startTimeout), "see its log: " + d.LogPath()}
	}
}

// waitForDaemon waits for a daemon that another command has started at the same
// moment. Two seconds are plenty if there is one.
func waitForDaemon(ctx context.Context, c *api.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		_, err := c.Status(ctx)
		if !isNoDaemon(err) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// lastLine returns what a daemon that ended said last, or how it ended.
func lastLine(log io.ReaderAt, from int64, err error) string {
	b, readErr := io.ReadAll(io.NewSectionReader(log, from, 1<<20))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0 && readErr == nil; i-- {
		if line, ok := strings.CutPrefix(lines[i], "cmkfsd: "); ok {
			return line
		}
	}
	if err == nil {
		err = errors.New("it ended at once")
	}
	return err.Error()
}

// absolute makes a mount point absolute without looking at it: asking about a
// path below a mount of ours could wait for a daemon that is not there.
func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("mount point %q: %w", path, err)
	}
	return abs, nil
}
