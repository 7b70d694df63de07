package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync/atomic"
	"time"
)

// raceHeader begins what the race detector says.
const raceHeader = "WARNING: DATA RACE"

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output events
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

// result counts one package's tests, subtests included.
type result struct {
	passed, failed, skipped int
	output                  map[string][]string // by test, "" is the package itself
	started                 map[string]bool     // tests without a verdict so far
	raced                   map[string]bool     // tests whose output has a data race
}

// report gathers the events of all runs. It is used by one goroutine, where
// nothing else is said.
type report struct {
	w        io.Writer
	total    result
	packages map[string]*result
	build    map[string][]string // compiler output by import path
	problems []string
	ended    atomic.Int64 // when a package ended last, nanoseconds since 1970
}

func newReport(w io.Writer) *report {
	r := &report{w: w, packages: map[string]*result{}, build: map[string][]string{}}
	r.touch()
	return r
}

// touch notes that a package ended now; idle is how long that is ago. Both may
// be called by other goroutines.
func (r *report) touch()              { r.ended.Store(time.Now().UnixNano()) }
func (r *report) idle() time.Duration { return time.Since(time.Unix(0, r.ended.Load())) }

// problem notes something besides a failed test that makes the run fail.
func (r *report) problem(text string) { r.problems = append(r.problems, text) }

// failed says whether anything failed so far.
func (r *report) failed() bool { return r.total.failed > 0 || len(r.problems) > 0 }

// read consumes a stream of events until its end.
func (r *report) read(in io.Reader) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var ev event
		if err := json.Unmarshal(sc.Bytes(), &ev); err != nil {
			fmt.Fprintln(r.w, sc.Text()) // the go command's own words
			continue
		}
		r.event(ev)
	}
	return sc.Err()
}

func (r *report) event(ev event) {
	if ev.Action == "build-output" {
		r.build[ev.ImportPath] = append(r.build[ev.ImportPath], ev.Output)
		return
	}
	if ev.Package == "" {
		return
	}
	p := r.packages[ev.Package]
	if p == nil {
		p = &result{output: map[string][]string{}, started: map[string]bool{}, raced: map[string]bool{}}
		r.packages[ev.Package] = p
	}
	switch ev.Action {
	case "run":
		p.started[ev.Test] = true
	case "output":
		p.output[ev.Test] = append(p.output[ev.Test], ev.Output)
		if strings.Contains(ev.Output, raceHeader) {
			p.raced[ev.Test] = true
		}
	case "pass", "fail", "skip":
		delete(p.started, ev.Test)
		if ev.Test == "" {
			r.packageDone(ev, p)
			return
		}
		r.testDone(ev, p)
	}
}

func (r *report) testDone(ev event, p *result) {
	switch ev.Action {
	case "pass":
		p.passed++
		r.passedWithRace(ev, p)
		delete(p.output, ev.Test)
	case "fail":
		p.failed++
		r.print(ev.Package, ev.Test, p.output[ev.Test])
	case "skip":
		p.skipped++
		if reason, ok := expectedSkip(ev.Package, ev.Test); ok {
			fmt.Fprintf(r.w, "skip %s %s: %s\n", ev.Package, ev.Test, reason)
		} else {
			r.print(ev.Package, ev.Test, p.output[ev.Test])
			r.problem(fmt.Sprintf("%s %s was skipped", ev.Package, ev.Test))
		}
	}
}

// passedWithRace makes the run fail for a race in a process that a test has
// started: the test itself does not notice.
func (r *report) passedWithRace(ev event, p *result) {
	if p.raced[ev.Test] {
		r.print(ev.Package, ev.Test, p.output[ev.Test])
		r.problem(strings.TrimSpace(ev.Package+" "+ev.Test) + " passed with a data race in its output")
	}
}

func (r *report) packageDone(ev event, p *result) {
	r.touch()
	if ev.Action == "pass" {
		r.passedWithRace(ev, p)
	}
	if ev.Action == "fail" {
		// A panic, a time-out or a failed build ends tests without a verdict.
		for test := range p.started {
			p.failed++
			r.print(ev.Package, test, p.output[test])
		}
		if ev.FailedBuild != "" {
			r.print(ev.Package, "build", r.build[ev.FailedBuild])
		}
		if p.failed == 0 {
			p.failed++
			r.print(ev.Package, "", p.output[""])
		}
	}
	r.total.passed += p.passed
	r.total.failed += p.failed
	r.total.skipped += p.skipped
	if p.passed+p.failed+p.skipped > 0 {
		verdict := "ok  "
		if ev.Action == "fail" {
			verdict = "FAIL"
		}
		fmt.Fprintf(r.w, "%s %-28s %4d passed %3d failed %3d skipped %7.1fs\n",
			verdict, ev.Package, p.passed, p.failed, p.skipped, ev.Elapsed)
	}
}

func (r *report) print(pkg, test string, lines []string) {
	fmt.Fprintf(r.w, "--- %s %s\n%s", pkg, test, strings.Join(lines, ""))
}

// finish prints what made the run fail and the closing line, and returns
// whether everything held.
func (r *report) finish(took time.Duration) bool {
	if r.total.passed+r.total.failed == 0 {
		r.problem("no test ran")
	}
	sort.Strings(r.problems)
	for _, p := range r.problems {
		fmt.Fprintln(r.w, "problem:", p)
	}
	fmt.Fprintf(r.w, "tests took %s\n", took.Round(time.Second))
	fmt.Fprintf(r.w, "%d passed, %d failed, %d skipped\n", r.total.passed, r.total.failed, r.total.skipped)
	return !r.failed()
}
