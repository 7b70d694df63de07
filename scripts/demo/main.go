// Demo tells the main story of cmkfs on real input, through the command line
// only, and checks every sentence of it:
//
//	a volume on a key in an (emulated) key vault and one on a SoftHSM token;
//	the Go source tree, a build, SQLite and git on them, while workers are
//	killed; the keys disabled, and what everybody sees then; the keys enabled,
//	access restored, everything still there; unmounted and scrubbed.
//
// Usage: go run ./scripts/demo [-v]     as root, after `make build`
//
// It exits non-zero when any step does not hold, and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cmkfs/scripts/internal/stage"
)

// demo tells the story on its stage.
type demo struct {
	*stage.Stage
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == holdArg {
		hold(os.Args[2])
		return
	}
	verbose := flag.Bool("v", false, "print every command")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	code := run(ctx, *verbose)
	cancel()
	stop()
	os.Exit(code)
}

// run tells the story and cleans up, whatever happened.
func run(ctx context.Context, verbose bool) int {
	st, err := stage.New(ctx, verbose)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	d := &demo{Stage: st}
	told := make(chan error, 1)
	go func() { told <- d.story() }()
	select {
	case err = <-told:
	case <-ctx.Done():
		// The story may be stuck in a system call on a mount: taking the
		// daemon away ends that.
		err = fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	if err != nil && ctx.Err() == nil {
		d.PrintLogs()
	}
	leftovers := d.Close()
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "\ndemo FAILED in %q: %v\n", d.Chapter, err)
		return 1
	case len(leftovers) > 0:
		fmt.Fprintf(os.Stderr, "\ndemo FAILED: left behind: %v\n", leftovers)
		return 1
	}
	d.Say("every step held; nothing is left behind")
	return 0
}
