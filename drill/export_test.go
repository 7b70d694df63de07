package drill

import (
	"time"

	"cmkfs/drill/probe"
	"cmkfs/drill/report"
	"cmkfs/drill/workload"
)

// Facts are what was seen in a drill.
type Facts = facts

// Judge says which promises held.
func Judge(d Drill, own bool, f Facts) []report.Expectation { return judge(d, own, f) }

// GoodFacts are those of a run of a drill in which everything is as it should be.
func GoodFacts(d Drill) Facts {
	at := func(seconds float64) time.Time {
		return time.Unix(1_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
	}
	f := facts{
		pace: 1, steady: 1000, injected: at(2), held: at(6), healed: at(6), longest: time.Second, call: "pread",
		verdict: workload.Verdict{Acknowledged: 500, Places: 300}, checked: true, tried: []string{"SQLite"}, errors: map[string]int64{},
		control: true, searchedMemory: 1 << 20,
	}
	if d.Class != "" {
		f.classes = []string{"ok", string(d.Class)}
	}
	ok := func(from, to float64, n int) {
		f.slots = append(f.slots, probe.Slot{Route: "pread", From: at(from), Tries: n, OK: n, FirstOK: at(from), LastOK: at(to)})
	}
	ok(0, 1.9, 100)
	if d.Outcome == GoesOn {
		ok(2, 6, 100)
		return f
	}
	f.degraded, f.decided, f.ended, f.suspended = at(2.5), at(3), at(4), 1
	ok(2, 3.1, 50)
	f.slots = append(f.slots, probe.Slot{Route: "pread", From: at(4.1), Tries: 50, Errors: map[string]int{d.errno(): 50}})
	f.errors["pwrite "+d.errno()] = 40
	f.asked, f.recovered = at(6), at(6.2)
	ok(6.2, 7, 50)
	return f
}

// Spoilt are ways in which a run can be bad, and the promise that must notice,
// by a word of it.
var Spoilt = []struct {
	Name, Noticed string
	Outcomes      []Outcome
	Spoil         func(Drill, *Facts)
}{
	{"nothing works before", "before the fault", nil, func(_ Drill, f *Facts) { f.steady = 0 }},
	{"errors before", "before the fault", nil, func(_ Drill, f *Facts) { f.unsteady = []string{"pread EIO 1 times"} }},
	{"a lost write", "acknowledged", nil, func(_ Drill, f *Facts) { f.verdict.Lost, f.verdict.Wrong = 1, []string{"f0#1 is gone"} }},
	{"nothing was acknowledged", "acknowledged", nil, func(_ Drill, f *Facts) { f.verdict.Acknowledged = 0 }},
	{"nobody could look", "acknowledged", nil, func(_ Drill, f *Facts) { f.unsaid = []string{"the process died"} }},
	{"SQLite lost a row", "applications", nil, func(_ Drill, f *Facts) { f.apps = []string{"SQLite: a row is missing"} }},
	{"the check found something", "check finds nothing", nil, func(_ Drill, f *Facts) { f.check = "1 finding" }},
	{"no check", "check finds nothing", nil, func(_ Drill, f *Facts) { f.checked = false }},
	{"a call hangs", "waits without an end", nil, func(_ Drill, f *Facts) { f.longest = time.Minute }},
	{"it never stops", "access is taken away", []Outcome{Stops}, func(_ Drill, f *Facts) {
		f.ended, f.decided, f.suspended = time.Time{}, time.Time{}, 0
	}},
	{"it stops again and again", "access is taken away", []Outcome{Stops}, func(d Drill, f *Facts) { f.suspended = max(1, d.Suspensions) + 1 }},
	{"checks say nothing", "checks of the key", []Outcome{Stops}, func(_ Drill, f *Facts) { f.classes = []string{"ok"} }},
	{"a read after the stop", "nothing succeeds any more", []Outcome{Stops, Unmounts}, func(_ Drill, f *Facts) {
		at := f.ended.Add(time.Second)
		f.slots = append(f.slots, probe.Slot{Route: "mmap", From: at, Tries: 1, OK: 1, FirstOK: at, LastOK: at})
	}},
	{"a slow stop", "the stop is quick", []Outcome{Stops}, func(_ Drill, f *Facts) { f.decided = f.decided.Add(-time.Minute) }},
	{"a canary in memory", "in the memory of no process", []Outcome{Stops, Unmounts}, func(_ Drill, f *Facts) { f.found = []string{"process 1"} }},
	{"a search that finds nothing ever", "in the memory of no process", []Outcome{Stops, Unmounts}, func(_ Drill, f *Facts) { f.control = false }},
	{"another errno", "programs get", []Outcome{Stops}, func(_ Drill, f *Facts) { f.errors["pwrite EIO2"] = 1 }},
	{"access does not come back", "comes back", []Outcome{Stops, Unmounts}, func(_ Drill, f *Facts) { f.recovered, f.trouble = time.Time{}, "the key is refused" }},
	{"access comes back late", "comes back", []Outcome{Stops, Unmounts}, func(_ Drill, f *Facts) { f.recovered = f.asked.Add(time.Hour) }},
	{"a process stays", "every process", []Outcome{Unmounts}, func(_ Drill, f *Facts) { f.left = []string{"process 7"} }},
	{"the processes were not looked at", "every process", []Outcome{Unmounts}, func(_ Drill, f *Facts) { f.ended = time.Time{} }},
	{"an error", "notices more than a pause", []Outcome{GoesOn}, func(_ Drill, f *Facts) { f.errors["pread ENOKEY"] = 1 }},
	{"the probe fails", "notices more than a pause", []Outcome{GoesOn}, func(_ Drill, f *Facts) {
		f.slots = append(f.slots, probe.Slot{Route: "stat", From: f.injected.Add(time.Second), Tries: 1, Errors: map[string]int{"ENOKEY": 1}})
	}},
	{"it is suspended", "never taken away", []Outcome{GoesOn}, func(_ Drill, f *Facts) { f.suspended = 1 }},
	{"there was no fault", "notices more than a pause", []Outcome{GoesOn}, func(_ Drill, f *Facts) { f.injected = time.Time{} }},
}

// SearchFiles and SearchMemory look for a text.
var (
	SearchFiles  = searchFiles
	SearchMemory = searchMemory
)
