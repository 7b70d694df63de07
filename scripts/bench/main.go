// Bench measures cmkfs beside plain ext4, other encrypting file systems and the
// bounds that FUSE sets, and judges it by the targets in targets.go.
//
// Usage: go run ./scripts/bench [flags]     as root, after `make build`
//
// All of them live on one journaled ext4 image on a loop device. Each turn is one
// group of workloads (scripts/fsbench) on one file system, made and mounted for
// it alone; in every repetition each of them has its turn before the next group
// begins, in another order each time.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cmkfs/scripts/internal/stage"
)

// options are what a run is told.
type options struct {
	quick    bool
	keys     bool          // compare sources of keys instead of file systems
	reps     int           // repetitions of those that are judged by each other
	sides    int           // repetitions of all others
	groups   []string      // of workload letters that share their files
	rivals   []rival       // who takes part
	mount    string        // -o of `cmkfsd volume mount`
	checks   bool          // the kernel checks permissions on the others' mounts, too
	limit    time.Duration // of a turn of the others
	budget   time.Duration // after it no further repetition begins a turn
	keep     string        // a file for the samples
	record   bool          // append to docs/performance.txt and .jsonl
	complete bool          // nothing was left out by a flag
}

const usage = `bench - measure cmkfs beside ext4, other encrypting file systems and FUSE's bounds.

Usage: go run ./scripts/bench [flags]        as root, after make build

  make bench                      everything, three repetitions, over an hour
  make bench-quick                small sizes, one repetition, under three minutes
  make bench-keys                 does a customer-managed key cost anything? ten minutes
  go run ./scripts/bench -w F     one row of workloads: the small files
  go run ./scripts/bench -w 'AB H' -with gocryptfs,securefs -r 1
  go run ./scripts/bench -quick -with all
  go run ./scripts/bench -checks -w F     with the others mounted for all users

Workloads (scripts/fsbench -h): A B sequential, C cached, D random reads, E random
writes, F small files, G tree, H SQLite, I git, K compile, L latency beside checkpoints,
M PostgreSQL, where the others are mounted for all users, too.
Prints one table of medians; "x" is cmkfs's gain, above 1 it is better, whether more
or less of the unit is good. A complete run is appended to docs/performance.txt and,
for programs, docs/performance.jsonl. Exits 1 when a target is missed; with -quick only if it failed.

`

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		if err != flag.ErrHelp {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(2)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, o)
	stop()
	os.Exit(code)
}

// parse reads the command line.
func parse(args []string) (options, error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(f.Output(), usage); f.PrintDefaults() }
	var o options
	f.BoolVar(&o.quick, "quick", false, "small sizes, one repetition, gocryptfs and ext4 only unless -with says otherwise")
	f.BoolVar(&o.keys, "keys", false, "compare customer-managed keys with a platform-managed one instead: small sizes, -r repetitions, groups ABEF unless -w says otherwise")
	f.IntVar(&o.reps, "r", 3, "repetitions of ext4, gocryptfs and cmkfs")
	f.IntVar(&o.sides, "sides", 1, "repetitions of all others")
	groups := f.String("w", "", "groups of workload letters, separated by spaces; the letters of one share their files (default \"AB CD E F G H I K L M N\"; K once)")
	with := f.String("with", "", "who takes part beside cmkfs, separated by commas: native, floor, ceiling, gocryptfs, securefs, cryfs, encfs, root-only (cmkfs for one user and without checks, as the others are by default), none; default all")
	f.StringVar(&o.mount, "o", "", "options for `cmkfsd volume mount -o`")
	f.BoolVar(&o.checks, "checks", false, "mount the others as cmkfs is by default: for all users, the kernel checking permissions")
	f.DurationVar(&o.limit, "limit", 2*time.Minute, "longest turn of floor, ceiling, securefs, cryfs and encfs; five times cmkfs's turn if that is shorter")
	f.DurationVar(&o.budget, "budget", 85*time.Minute, "after this time no further turn begins; what there is then is shown")
	f.StringVar(&o.keep, "keep", "", "append the samples, as JSON lines, to this file")
	f.BoolVar(&o.record, "record", false, "record the run although it is not complete")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.reps < 1 || o.sides < 0 {
		return o, fmt.Errorf("what is %q? see -h", strings.Join(args, " "))
	}
	o.complete = !o.quick && !o.keys && *groups == "" && *with == "" && o.mount == "" && !o.checks && o.reps >= 3 && o.sides >= 1
	if o.keys && *groups == "" {
		*groups = "ABEF"
	}
	if *groups == "" {
		*groups = "AB CD E F G H I K L M N"
		if o.quick {
			*groups = "AB CD E F G H I L"
		}
	}
	if o.quick {
		o.reps, o.sides = 1, 1
		if *with == "" {
			*with = "native,gocryptfs"
		}
	}
	o.groups = strings.Fields(*groups)
	var err error
	o.rivals, err = choose(*with)
	return o, err
}

// run measures, prints and records; it cleans up whatever happened.
func run(ctx context.Context, o options) int {
	load := loadAverage()
	s, err := stage.New(ctx, false)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	b := &bench{Stage: s, options: o, results: newResults()}
	err = b.measure()
	if err != nil {
		b.PrintLogs()
	}
	if left := b.Close(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "bench: had to take away by force: %q\n", left)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if o.keys {
		fmt.Print(compareKeys(b.results.values, b.results.units))
		if err != nil {
			return 1
		}
		return 0
	}
	rows := b.results.judge()
	if len(rows) == 0 {
		return 1
	}
	r := report{Environment: environment(load, o.rivals), Options: b.describe(), Rows: rows}
	text := r.text()
	fmt.Print(text)
	if err == nil && (o.complete || o.record) {
		if err = r.append(text); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	if err != nil || r.missed() > 0 && !o.quick {
		return 1
	}
	return 0
}
