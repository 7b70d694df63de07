package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemon is a "cmkfsd serve" that the drill has started.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// readyFD is where a daemon says that it is ready.
const readyFD = 3

// startDaemon starts the scene's daemon and waits until it answers.
func (s *scene) startDaemon(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(s.program, "--state-dir", s.state.Path(), "serve", fmt.Sprintf("%s%d", readyFlag, readyFD))
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = "/", log, log, s.env
	cmd.ExtraFiles = []*os.File{w}
	// A Ctrl-C is for the drill, which ends it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("the daemon: %w", err)
	}
	d := &daemon{cmd: cmd, ended: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(d.ended) }()
	s.daemon = d
	ready := make(chan bool, 1)
	go func() { n, _ := r.Read(make([]byte, 1)); ready <- n == 1 }()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	select {
	case ok := <-ready:
		if !ok {
			return fmt.Errorf("the daemon ended at once: %s", s.lastWords())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the daemon does not answer: %w", ctx.Err())
	}
}

// lastWords are the last lines of the daemon's log.
func (s *scene) lastWords() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "daemon.log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}

// stopDaemon ends the daemon as systemd would.
func (s *scene) stopDaemon() {
	d := s.daemon
	if d == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		_ = d.cmd.Process.Kill()
		select {
		case <-d.ended:
		case <-time.After(5 * time.Second): // the kernel keeps it
		}
	}
	s.daemon = nil
}

// family returns the processes of a daemon and of its children, the daemon
// first.
func family(daemon int) []int {
	all := []int{daemon}
	for i := 0; i < len(all); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, list := range lists {
			b, _ := os.ReadFile(list) // of a thread that has ended meanwhile
			for _, field := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(field); err == nil {
					all = append(all, pid)
				}
			}
		}
	}
	return all
}

// alive says whether a process is there and no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// PID (NAME) STATE …, where NAME may hold anything.
	state := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return len(state) > 0 && state[0] != "Z" && state[0] != "X"
}

// kill sends SIGKILL to a process; one that has ended is no error.
func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
