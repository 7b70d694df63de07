// Soak works on a volume with several writers and readers that know what must
// be there, and meanwhile kills workers, the key agent, the daemon or all of
// them, and suspends and restores access, at random. It checks that
//
//   - a killed worker or key agent makes no operation fail,
//   - whatever was answered is there after every kind of death,
//   - the volume's own check finds nothing at the end.
//
// With -drills it runs random drills of `cmkfsd drill` instead, for as long. With
// -leaks it kills nothing: it unpacks, compares and removes a source tree in a loop,
// and fails if descriptors or goroutines of a process become more; memory is in the
// table it writes.
//
// Usage: go run ./scripts/soak [-time 1m] [-seed N] [-v] [-drills [-from K]]
//
//	[-leaks TABLE.csv [-every 10s] [-tree DIR]]   as root, after `make build`
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cmkfs/scripts/internal/stage"
)

const actors = 4

// soak is one run.
type soak struct {
	*stage.Stage
	rng    *rand.Rand
	mount  string
	daemon *stage.Process
	counts map[string]int // what was done to the processes

	actors []*actor
	ops    atomic.Int64
	// fail takes the first failure of an actor.
	fail chan error
}

func main() {
	length := flag.Duration("time", time.Minute, "how long")
	seed := flag.Uint64("seed", 0, "repeat the choices of a run (0 = new ones)")
	verbose := flag.Bool("v", false, "print every command")
	rehearse := flag.Bool("drills", false, "run random drills")
	from := flag.Int("from", 1, "with -drills and -seed: begin with the drill of this number")
	table := flag.String("leaks", "", "look for leaks, and write what the processes take to this file")
	every := flag.Duration("every", 10*time.Second, "with -leaks: how often to look")
	tree := flag.String("tree", "", "with -leaks: the folder to pack and unpack (empty = the source of Go)")
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	st, err := stage.New(ctx, *verbose)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	s := &soak{Stage: st, rng: rand.New(rand.NewPCG(*seed, 0)), mount: st.Path("mnt"),
		counts: map[string]int{}, fail: make(chan error, actors)}
	s.Say("seed %d", *seed)
	done := make(chan error, 1)
	var summary string
	go func() {
		var err error
		switch {
		case *rehearse:
			summary, err = drills(st, *length, *seed, *from)
		case *table != "":
			summary, err = s.findLeaks(*length, *every, *tree, *table)
		default:
			err = s.run(*length, *seed)
		}
		done <- err
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && ctx.Err() == nil {
		s.PrintLogs()
	}
	leftovers := s.Close()
	stop()
	if err != nil || len(leftovers) > 0 {
		fmt.Fprintf(os.Stderr, "\nsoak FAILED (seed %d): %v\nleft behind: %q\n", *seed, err, leftovers)
		os.Exit(1)
	}
	if summary != "" {
		s.Say("%s", summary)
		return
	}
	s.Say("%d operations, %v: nothing answered was lost", s.ops.Load(), s.counts)
}

// mountVolume starts a daemon that serves a new volume.
func (s *soak) mountVolume() error {
	if err := os.Mkdir(s.mount, 0o755); err != nil {
		return err
	}
	key, err := s.MakeToken()
	if err != nil {
		return err
	}
	if err := s.serve(); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"account", "create", "--name", "a"},
		{"account", "update", "--pkcs11-uri", key, "--check-interval", "1s"},
		{"volume", "create", "--name", "v"},
		{"volume", "mount", "v", s.mount},
	} {
		if _, err := s.Cmkfs(args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) run(length time.Duration, seed uint64) error {
	if err := s.mountVolume(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(s.Ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i := range actors {
		a, err := newActor(s, i, seed)
		if err != nil {
			return err
		}
		s.actors = append(s.actors, a)
		wg.Go(func() {
			if err := a.run(ctx); err != nil {
				s.fail <- fmt.Errorf("actor %d: %w", i, err)
			}
		})
	}
	err := s.disturb(length)
	cancel()
	wg.Wait()
	select {
	case bad := <-s.fail:
		err = errors.Join(err, bad)
	default:
	}
	if err != nil {
		return err
	}
	for i, a := range s.actors {
		if err := a.verifyAll(); err != nil {
			return fmt.Errorf("at the end: actor %d: %w", i, err)
		}
	}
	return s.finish()
}

// finish checks the volume and ends the daemon.
func (s *soak) finish() error {
	if _, err := s.Cmkfs("volume", "unmount", "v"); err != nil {
		return err
	}
	if _, err := s.Cmkfs("volume", "check", "v", "--scrub"); err != nil {
		return err
	}
	if code := s.daemon.Stop(); code != 0 {
		return fmt.Errorf("the daemon ended with exit code %d", code)
	}
	return nil
}

func (s *soak) serve() (err error) {
	s.daemon, err = s.Serve()
	return err
}
