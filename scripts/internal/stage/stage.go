// Package stage is what the programs that drive cmkfs from outside share: a
// place of their own, a daemon, commands, background processes, and a report
// with the time passed.
package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"cmkfs/scripts/internal/sandbox"
)

// Stage is one run: its programs, folders and background processes. Commands
// may be run by several goroutines at once; whatever is launched is launched by
// one.
type Stage struct {
	Ctx     context.Context // of the whole run
	Chapter string          // what is going on, for a failure's message

	Cmkfsd   string // the daemon's program
	Emulator string // the emulated key vault's
	Rig      string // scripts/softhsm-rig
	State    string // the daemon's state directory

	verbose    bool
	start      time.Time
	box        *sandbox.Sandbox
	extra      []string // environment for all programs
	background []*Process
	logs       []string
}

// New sets the stage. The programs must have been built, and the working
// directory must be the repository.
func New(ctx context.Context, verbose bool) (*Stage, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("run me as root: mounting needs it")
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	s := &Stage{
		Ctx: ctx, verbose: verbose, start: time.Now(),
		Cmkfsd:   filepath.Join(root, "bin", "cmkfsd"),
		Emulator: filepath.Join(root, "bin", "keyvault-emulator"),
		Rig:      filepath.Join(root, "scripts", "softhsm-rig"),
	}
	for _, p := range []string{s.Cmkfsd, s.Emulator, s.Rig} {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("%w (run `make build`, and start me from the repository)", err)
		}
	}
	if s.box, err = sandbox.New(); err != nil {
		return nil, err
	}
	s.State = s.Path("state")
	return s, nil
}

// Path is a path in the run's own folder.
func (s *Stage) Path(name string) string { return filepath.Join(s.box.Dir(), name) }

// AddEnv adds KEY=value settings for the programs started from now on.
func (s *Stage) AddEnv(settings ...string) { s.extra = append(s.extra, settings...) }

// Close ends what runs and takes everything away. It returns what had to be
// taken away by force.
func (s *Stage) Close() []string {
	for i := len(s.background) - 1; i >= 0; i-- {
		s.background[i].Stop()
	}
	return s.box.Clean()
}

// Say prints a line with the time passed.
func (s *Stage) Say(format string, args ...any) {
	fmt.Printf("[%6.1fs] %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// Begin opens a chapter.
func (s *Stage) Begin(title string) {
	s.Chapter = title
	fmt.Println()
	s.Say("%s", title)
}

// Show prints what a user would see, indented.
func (s *Stage) Show(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Println("          | " + strings.TrimRight(line, "\n"))
	}
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int // of the exit, -1 after a signal
}

// Try runs a command for at most limit and returns how it ended;
// the error is for commands that could not run or did not end.
func (s *Stage) Try(limit time.Duration, name string, args ...string) (Result, error) {
	if s.verbose {
		s.Say("$ %s %s", filepath.Base(name), strings.Join(args, " "))
	}
	ctx, cancel := context.WithTimeout(s.Ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(s.box.Env(), s.extra...)
	cmd.WaitDelay = 5 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s %s: no end after %s", filepath.Base(name), strings.Join(args, " "), limit)
	}
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}

// Do runs a command that has to succeed and returns what it printed.
func (s *Stage) Do(name string, args ...string) (string, error) {
	r, err := s.Try(2*time.Minute, name, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s %s: exit %d: %s", filepath.Base(name), strings.Join(args, " "), r.Code,
			strings.TrimSpace(r.Stderr+r.Stdout))
	}
	return r.Stdout, err
}

// Cmkfs runs one cmkfsd command that has to succeed.
func (s *Stage) Cmkfs(args ...string) (string, error) {
	return s.Do(s.Cmkfsd, append([]string{"--state-dir", s.State}, args...)...)
}

// Process is one that runs beside the story.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
}

// Launch starts a background process that writes to a log of its own.
func (s *Stage) Launch(log, name string, args ...string) (*Process, error) {
	return s.LaunchWith(log, "", name, args...)
}

// LaunchWith is Launch for a process that reads its input, a password for example.
func (s *Stage) LaunchWith(log, input, name string, args ...string) (*Process, error) {
	path := s.Path(log)
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s.logs = append(s.logs, path)
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
		cmd.WaitDelay = 5 * time.Second
	}
	return s.Start(cmd)
}

// Start starts a background process whose input and output the caller has set
// up.
func (s *Stage) Start(cmd *exec.Cmd) (*Process, error) {
	cmd.Env = append(s.box.Env(), s.extra...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() { cmd.Wait(); close(p.done) }()
	s.background = append(s.background, p)
	return p, nil
}

// Stop asks a process to end, insists after twenty seconds, and returns its exit
// code.
func (p *Process) Stop() int {
	p.once.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			p.cmd.Process.Kill()
			<-p.done
		}
	})
	return p.cmd.ProcessState.ExitCode()
}

// Kill ends a process with SIGKILL and waits for its end.
func (p *Process) Kill() {
	p.once.Do(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// KillAll ends every process of the run, also those that hang in a file system
// of it that nobody serves.
func (s *Stage) KillAll() { s.box.Kill(os.Getpid()) }

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Await polls until a condition holds.
func (s *Stage) Await(limit time.Duration, what string, holds func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := holds()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("waited %s in vain: %s", limit, what), err)
		}
		select {
		case <-s.Ctx.Done():
			return s.Ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// PrintLogs shows the ends of the background processes' logs.
func (s *Stage) PrintLogs() {
	const last = 30 // lines
	for _, path := range s.logs {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
		fmt.Fprintf(os.Stderr, "\nlast lines of %s:\n%s\n", filepath.Base(path),
			strings.Join(lines[max(0, len(lines)-last):], "\n"))
	}
}
