package drill

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cmkfs/drill/probe"
	"cmkfs/drill/report"
	"cmkfs/drill/workload"
)

// facts are what was seen in a drill. What follows from them is judge's.
type facts struct {
	pace int

	steady   int64    // operations before the fault
	unsteady []string // what went wrong before it

	injected  time.Time // the fault; zero = it could not be
	degraded  time.Time // the daemon noticed; zero = never
	decided   time.Time // access was to end; zero = never
	ended     time.Time // nothing may succeed any more; zero = never
	held      time.Time // the end of the time in which the outage was watched
	suspended int       // times
	classes   []string  // of the checks meanwhile
	slots     []probe.Slot
	errors    map[string]int64 // of the work meanwhile, by "call ERRNO"
	longest   time.Duration    // of one call, from the fault to the end
	call      string

	searchedMemory int64 // bytes
	control        bool  // the search finds the text where it must be
	found          []string
	left           []string // processes of a daemon that was killed

	healed    time.Time
	asked     time.Time // access was asked for
	recovered time.Time // the first try that succeeded on every route; zero = never
	trouble   string    // why access did not come back

	verdict workload.Verdict
	unsaid  []string // what could not be verified, and why
	check   string   // what the volume's check found; "" = nothing
	checked bool
	apps    []string // what real applications miss
	tried   []string // the applications
}

// Bounds that a drill holds everything to, on a quiet machine. They are far
// above what is measured (docs/stopping.md): what they catch is a wait without
// an end.
const (
	mostStop    = 5 * time.Second  // from the decision to the last success: the drain takes 2 s
	mostCall    = 15 * time.Second // of one system call
	mostRecover = 25 * time.Second // from asking to the first success: a call of a hung module takes 20 s
)

// promise is one sentence and how it is judged.
type promise struct {
	text string
	hold func(facts) (held bool, detail string)
}

// promises are what a drill tests, in order.
func promises(d Drill, own bool) []promise {
	all := []promise{{"before the fault everything works", func(f facts) (bool, string) {
		return f.steady > 0 && len(f.unsteady) == 0, detail(f.unsteady, fmt.Sprintf("%d operations", f.steady))
	}}}
	if d.Class != "" {
		all = append(all, promise{"checks of the key say: " + string(d.Class), func(f facts) (bool, string) {
			return slices.Contains(f.classes, string(d.Class)), "they said: " + strings.Join(f.classes, ", ")
		}})
	}
	switch d.Outcome {
	case Stops:
		all = append(all, stopPromises(d)...)
	case GoesOn:
		all = append(all, promise{"no program notices more than a pause", func(f facts) (bool, string) {
			bad := slices.Concat(countErrors(f.errors), failures(f.slots, f.injected, time.Time{}))
			return !f.injected.IsZero() && len(bad) == 0, detail(bad, fmt.Sprintf("the longest call took %s (%s)", round(f.longest), f.call))
		}}, promise{"access is never taken away", func(f facts) (bool, string) {
			return f.suspended == 0, fmt.Sprintf("suspended %d times", f.suspended)
		}})
	case Unmounts:
		all = append(all, unmountPromises()...)
	}
	all = append(all, promise{"no system call waits without an end", func(f facts) (bool, string) {
		most := mostCall * time.Duration(f.pace)
		return f.longest < most, fmt.Sprintf("the longest took %s (%s), at most %s", round(f.longest), f.call, most)
	}}, promise{"everything acknowledged is there", func(f facts) (bool, string) {
		bad := slices.Concat(f.verdict.Wrong, f.unsaid)
		ok := f.verdict.Lost == 0 && len(bad) == 0 && f.verdict.Acknowledged > 0
		return ok, detail(bad, fmt.Sprintf("%d changes acknowledged, %d places compared", f.verdict.Acknowledged, f.verdict.Places))
	}}, promise{"applications find their data", func(f facts) (bool, string) {
		return len(f.apps) == 0, detail(f.apps, "tried: "+orNone(f.tried))
	}})
	if own {
		all = append(all, promise{"the volume's check finds nothing", func(f facts) (bool, string) {
			return f.checked && f.check == "", f.check
		}})
	}
	return all
}

// stopPromises are of an outage that ends access and gives it back.
func stopPromises(d Drill) []promise {
	most := max(1, d.Suspensions)
	back := comesBack("access comes back under the descriptors opened before")
	if d.Revived {
		back = comesBack("access comes back with the next mount")
	}
	return []promise{
		{"access is taken away", func(f facts) (bool, string) {
			return !f.ended.IsZero() && f.suspended >= 1 && f.suspended <= most, fmt.Sprintf("suspended %d times, at most %d", f.suspended, most)
		}},
		{"nothing succeeds any more once the volume is suspended", func(f facts) (bool, string) {
			if f.ended.IsZero() {
				return false, "it never was"
			}
			bad := successes(f.slots, f.ended, f.until(d))
			return len(bad) == 0, detail(bad, fmt.Sprintf("%d tries were refused", tries(f.slots, f.ended, f.until(d))))
		}},
		{"the stop is quick", func(f facts) (bool, string) {
			stop := f.stop(d)
			most := mostStop * time.Duration(f.pace)
			return stop != nil && *stop < most, fmt.Sprintf("the last success came %s after the decision, at most %s", showDuration(stop), most)
		}},
		noPlaintext(d),
		{"programs get " + d.errno(), func(f facts) (bool, string) {
			bad := otherErrnos(d, f.errors)
			return len(bad) == 0, detail(bad, fmt.Sprintf("%d calls failed", sum(f.errors)))
		}},
		back,
	}
}

// unmountPromises are of a daemon's death.
func unmountPromises() []promise {
	d := Drill{}
	return []promise{
		{"every process of the daemon ends", func(f facts) (bool, string) {
			return !f.ended.IsZero() && len(f.left) == 0, detail(f.left, "none is left")
		}},
		{"nothing succeeds any more when they have ended", func(f facts) (bool, string) {
			if f.ended.IsZero() {
				return false, "they never did"
			}
			bad := successes(f.slots, f.ended, f.held)
			return len(bad) == 0, detail(bad, fmt.Sprintf("%d tries were refused", tries(f.slots, f.ended, f.held)))
		}},
		noPlaintext(d),
		comesBack("access comes back with the next mount"),
	}
}

func noPlaintext(Drill) promise {
	return promise{"contents and names are in no file and in the memory of no process of ours", func(f facts) (bool, string) {
		bad := f.found
		if !f.control {
			bad = append(bad, "the search does not find what is there")
		}
		return len(bad) == 0, detail(bad, fmt.Sprintf("%.0f MB of memory searched", float64(f.searchedMemory)/1e6))
	}}
}

func comesBack(text string) promise {
	return promise{text, func(f facts) (bool, string) {
		if f.recovered.IsZero() || f.trouble != "" {
			return false, "it does not: " + f.trouble
		}
		took, most := f.recovered.Sub(f.asked), mostRecover*time.Duration(f.pace)
		return took < most, fmt.Sprintf("%s after it was asked for, at most %s", round(took), most)
	}}
}

// until is the end of the time in which nothing may succeed.
func (f facts) until(d Drill) time.Time {
	if d.Suspensions > 1 {
		return f.ended // access comes and goes by itself
	}
	return f.held
}

// stop is how long after the decision something succeeded; nil = there was none.
func (f facts) stop(d Drill) *time.Duration {
	if f.decided.IsZero() || f.ended.IsZero() {
		return nil
	}
	var last time.Time
	for _, s := range f.slots {
		if s.LastOK.After(last) && !s.LastOK.After(f.held) && (d.Suspensions <= 1 || s.LastOK.Before(f.ended)) {
			last = s.LastOK
		}
	}
	stop := max(0, last.Sub(f.decided))
	return &stop
}

// successes are the tries that began in a time and succeeded, by route.
func successes(slots []probe.Slot, from, to time.Time) (bad []string) {
	n := map[string]int{}
	for _, s := range slots {
		if s.LastOK.Before(from) || !s.FirstOK.Before(to) {
			continue
		}
		if s.FirstOK.Before(from) {
			n[s.Route]++ // at least the last one
		} else {
			n[s.Route] += s.OK
		}
	}
	for _, route := range sorted(n) {
		bad = append(bad, fmt.Sprintf("%s succeeded %d times", route, n[route]))
	}
	return bad
}

// plaintext counts the tries that gave contents or names away in a time.
func plaintext(slots []probe.Slot, from, to time.Time) (n int64) {
	for _, s := range slots {
		if slices.Contains(probe.Reads, s.Route) && !s.FirstOK.Before(from) && s.FirstOK.Before(to) {
			n += int64(s.OK)
		}
	}
	return n
}

// tries counts those in a time.
func tries(slots []probe.Slot, from, to time.Time) (n int) {
	for _, s := range slots {
		if !s.From.Before(from) && s.From.Before(to) {
			n += s.Tries
		}
	}
	return n
}

// failures are the tries that failed in a time, by route and errno; a zero end
// is none.
func failures(slots []probe.Slot, from, to time.Time) (bad []string) {
	n := map[string]int{}
	for _, s := range slots {
		if s.From.Before(from) || !to.IsZero() && !s.From.Before(to) {
			continue
		}
		for errno, k := range s.Errors {
			n[s.Route+" "+errno] += k
		}
	}
	for _, what := range sorted(n) {
		bad = append(bad, fmt.Sprintf("%s %d times", what, n[what]))
	}
	return bad
}

func countErrors(errors map[string]int64) (bad []string) {
	for _, what := range sorted(errors) {
		bad = append(bad, fmt.Sprintf("%s %d times", what, errors[what]))
	}
	return bad
}

// otherErrnos are errors that no program should have seen. A mapped page that
// cannot be had is SIGBUS, whatever the errno.
func otherErrnos(d Drill, errors map[string]int64) (bad []string) {
	allowed := []string{d.errno(), "SIGBUS"}
	if d.SmallDisk {
		allowed = append(allowed, "ENOSPC")
	}
	if d.Revived {
		allowed = append(allowed, "ENOTCONN", "ECONNABORTED", "ENOENT", "EIO") // of a mount that is gone
	}
	if strings.HasPrefix(d.errno(), "EKEY") {
		allowed = append(allowed, "ENOKEY") // a lease that ran out meanwhile
	}
	for _, what := range sorted(errors) {
		if _, errno, _ := cutLast(what); !slices.Contains(allowed, errno) {
			bad = append(bad, fmt.Sprintf("%s %d times", what, errors[what]))
		}
	}
	return bad
}

// cutLast cuts at the last space: a call's name may have some.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// judge says which promises held.
func judge(d Drill, own bool, f facts) []report.Expectation {
	var all []report.Expectation
	for _, p := range promises(d, own) {
		held, text := p.hold(f)
		all = append(all, report.Expectation{Text: p.text, Held: held, Detail: text})
	}
	return all
}

func detail(bad []string, good string) string {
	if len(bad) == 0 {
		return good
	}
	const most = 5
	if len(bad) > most {
		bad = append(slices.Clone(bad[:most]), fmt.Sprintf("and %d more", len(bad)-most))
	}
	return strings.Join(bad, "; ")
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

func showDuration(d *time.Duration) string {
	if d == nil {
		return "never"
	}
	return round(*d).String()
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Promises are the sentences that a drill tests.
func (d Drill) Promises() []string {
	var all []string
	for _, p := range promises(d, true) {
		all = append(all, p.text)
	}
	return all
}
