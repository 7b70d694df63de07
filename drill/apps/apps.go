// Package apps has real applications work on a volume while a drill takes its
// key away: each notes what it was told is stored, outside the volume, and looks
// for it afterwards with its own means.
package apps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// App is one application at work.
type App struct {
	Name string
	// prepare makes what it works on, work does one piece of work, and verify
	// says what is missing. All of them run programs that may fail meanwhile.
	prepare func(context.Context) error
	work    func(context.Context) error
	verify  func(context.Context) []string
	end     func(context.Context) // ends what works on between two pieces; nil = nothing
	rest    time.Duration         // between two pieces

	cancel context.CancelFunc
	ended  chan struct{}
	mu     struct {
		sync.Mutex
		done, failed int
	}
}

// callTime bounds one run of a program.
const callTime = 20 * time.Second

// Installed returns the applications of a folder on the volume that this host
// has. logs is a folder outside.
func Installed(dir, logs string, postgres bool) ([]*App, error) {
	var all []*App
	if _, err := exec.LookPath("sqlite3"); err == nil {
		all = append(all, SQLite(dir, "delete"))
	}
	if _, err := exec.LookPath("git"); err == nil {
		all = append(all, git(dir))
	}
	if postgres {
		p, err := Postgres(dir, logs)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Start prepares the application and has it work until Stop.
func (a *App) Start(ctx context.Context) error {
	prepare, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := a.prepare(prepare); err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	ctx, a.cancel = context.WithCancel(ctx)
	a.ended = make(chan struct{})
	go func() {
		defer close(a.ended)
		for ctx.Err() == nil {
			err := a.work(ctx)
			a.mu.Lock()
			if err != nil && ctx.Err() == nil {
				a.mu.failed++
			} else if err == nil {
				a.mu.done++
			}
			a.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(a.rest):
			}
		}
	}()
	return nil
}

// Counts are the pieces of work that succeeded and failed so far.
func (a *App) Counts() (done, failed int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.done, a.mu.failed
}

// Stop ends the work.
func (a *App) Stop() {
	if a.cancel == nil {
		return
	}
	a.cancel()
	select {
	case <-a.ended:
	case <-time.After(callTime + 5*time.Second): // a program that nobody can end
	}
}

// End ends what is left of the application, as the crash of a host would. The
// work has been stopped.
func (a *App) End(ctx context.Context) {
	if a.end != nil {
		a.end(ctx)
	}
}

// Verify says what is missing. The work has been stopped.
func (a *App) Verify(ctx context.Context) []string {
	var bad []string
	for _, b := range a.verify(ctx) {
		bad = append(bad, a.Name+": "+b)
	}
	return bad
}

// command is one run of a program.
type command struct {
	env []string
	as  *syscall.Credential // nil = us
}

// run runs a program and returns what it printed. It never waits for longer
// than a call may take, whatever the program waits for.
func (c command) run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	cmd.Env = append(os.Environ(), c.env...)
	// A Ctrl-C is for the drill.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.as}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run() }()
	select {
	case err := <-ended:
		if err != nil {
			return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
		}
		return out.String(), nil
	case <-time.After(callTime + 3*time.Second):
		return "", errors.New("it does not end")
	}
}
