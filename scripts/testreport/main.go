// Testreport runs the module's tests and reports them by package.
//
// It fails when a test fails, when one is skipped that the table in skips.go
// does not name, when none ran, and when a test left a mount or a process
// behind. Its last line reads "N passed, N failed, N skipped".
//
// What a process under test says counts as well: a data race that the race
// detector finds there makes the run fail, though the test passes.
//
//	testreport [-serial "PATTERNS"] [-only "PATTERNS"] [-patience N] [-- GO TEST FLAGS]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"cmkfs/scripts/internal/sandbox"
)

// Guards against hanging for ever, far above what a busy machine needs: go test
// ends a package after testTimeout. If it cannot, because a process waits for a
// file system that nobody serves, all processes of the run are ended after
// hangLimit, and the next package follows. The flag -patience multiplies them.
var (
	testTimeout = 20 * time.Minute
	hangLimit   = 22 * time.Minute
	runLimit    = 75 * time.Minute
)

func main() {
	serial := flag.String("serial", "", "package patterns whose tests run one package at a time, after the others")
	only := flag.String("only", "./...", "package patterns to test")
	patience := flag.Int("patience", 1, "how many times longer than usual a package and the run may take")
	flag.Parse()
	for _, limit := range []*time.Duration{&testTimeout, &hangLimit, &runLimit} {
		*limit *= time.Duration(*patience)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, strings.Fields(*only), strings.Fields(*serial), flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run tests the packages, cleans up after them and prints the report. It
// returns whether everything held.
func run(ctx context.Context, only, serial, flags []string) (bool, error) {
	if os.Getuid() != 0 {
		return false, errors.New("run the tests as root: they mount file systems")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return false, fmt.Errorf("the tests mount file systems, which this machine cannot: %w", err)
	}
	all, err := list(ctx, only)
	if err != nil {
		return false, err
	}
	alone, err := list(ctx, serial)
	if err != nil {
		return false, err
	}
	var together []string
	for _, p := range all {
		if !slices.Contains(alone, p) {
			together = append(together, p)
		}
	}
	alone = slices.DeleteFunc(alone, func(p string) bool { return !slices.Contains(all, p) })

	box, err := sandbox.New()
	if err != nil {
		return false, err
	}
	rep := newReport(os.Stdout)
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	for _, step := range []struct {
		packages []string
		flags    []string
	}{{together, nil}, {alone, []string{"-p", "1"}}} {
		if len(step.packages) == 0 || ctx.Err() != nil {
			continue
		}
		args := append([]string{"test", "-json", "-count=1", "-timeout=" + testTimeout.String()}, step.flags...)
		args = append(append(args, flags...), step.packages...)
		if err := goTest(ctx, args, box, rep); err != nil {
			rep.problem(err.Error())
		}
	}
	for _, leftover := range box.Clean() {
		rep.problem("left behind by a test: " + leftover)
	}
	if ctx.Err() != nil {
		rep.problem("interrupted: " + context.Cause(ctx).Error())
	}
	return rep.finish(time.Since(start)), nil
}

// list expands package patterns; patterns that match nothing are fine.
func list(ctx context.Context, patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-e"}, patterns...)...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// goTest runs one `go test -json` and feeds its events to the report. Failed
// tests are in the report; the error is for a run that broke otherwise.
func goTest(ctx context.Context, args []string, box *sandbox.Sandbox, rep *report) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = box.Env()
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	watched, stopWatch := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		watch(watched, cmd.Process.Pid, box, rep)
	}()
	readErr := rep.read(out)
	err = cmd.Wait()
	stopWatch()
	<-done
	var exit *exec.ExitError
	if errors.As(err, &exit) && rep.failed() {
		err = nil // the report says why
	}
	return errors.Join(readErr, err)
}

// watch ends the processes of a package that takes longer than hangLimit, but
// for the go command, and at the end of ctx all that are left.
func watch(ctx context.Context, goCommand int, box *sandbox.Sandbox, rep *report) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				box.Kill(goCommand)
			}
			return
		case <-tick.C:
		}
		if idle := rep.idle(); idle > hangLimit {
			fmt.Fprintf(os.Stderr, "testreport: no package ended for %s; its processes are killed\n", idle.Round(time.Second))
			box.Kill(goCommand)
			rep.touch()
		}
	}
}
