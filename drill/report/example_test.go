package report_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"cmkfs/drill/report"
)

// example makes the report of a drill as the daemon would bear it: the key is
// disabled in the middle third, denied twice, and enabled again. Equal seeds
// make equal reports.
func example(name string, length time.Duration, seed uint64) *report.Report {
	rnd := rand.New(rand.NewPCG(seed, 1))
	at := func(share float64) report.Offset { return report.Offset(share * float64(length)) }
	fault, denied, stopped, back, online := at(0.25), at(0.33), at(0.34), at(0.7), at(0.76)
	detect, stop, recovered := denied-fault, report.Offset(42*time.Millisecond), online-back
	r := &report.Report{
		Drill: name, Title: "the key is disabled in the vault, and enabled again",
		Source: "Microsoft.KeyVault", Volume: "drill-7f3a", Version: "0.5.0", Seed: seed,
		Started: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Duration: report.Offset(length),
		Phases: []report.Phase{{Name: "steady", From: 0, To: fault}, {Name: "outage", From: fault, To: back},
			{Name: "restored", From: back, To: at(0.9)}, {Name: "verified", From: at(0.9), To: report.Offset(length)}},
		Detect: &detect, Stop: &stop, Recover: &recovered,
		Errors: []report.CallErrors{{Call: "pread", Errno: "ENOKEY", Count: 18211}, {Call: "pwrite", Errno: "ENOKEY", Count: 4102},
			{Call: "fsync", Errno: "ENOKEY", Count: 212}, {Call: "openat", Errno: "ENOKEY", Count: 3077}, {Call: "load from a mapping", Errno: "SIGBUS", Count: 93}},
		Acknowledged: 48211,
		Timeline: []report.Event{
			{At: 0, Source: "drill", Text: "4 processes write, read and verify"},
			{At: fault, Source: "drill", Text: "key disabled", Kind: report.Fault},
			{At: denied, Source: "daemon", Text: "suspending: denied (KeyDisabled), confirmed by a second check"},
			{At: stopped, Source: "daemon", Text: "suspended: 128 writes drained, 0 refused"},
			{At: stopped + report.Offset(3*time.Millisecond), Source: "application", Text: "first ENOKEY: pread of /w2/17"},
			{At: back, Source: "drill", Text: "key enabled, access restored", Kind: report.Restore},
			{At: online, Source: "daemon", Text: "online"},
		},
		Expectations: []report.Expectation{
			{Text: "the account is suspended within the bound", Held: true, Detail: "4.80 s of at most 12 s"},
			{Text: "no request succeeds later than a second and the drain", Held: true, Detail: "last success 42 ms after the decision"},
			{Text: "every error is ENOKEY, or SIGBUS for mappings", Held: true, Detail: "25,695 errors"},
			{Text: "no plaintext is found after the stop", Held: true, Detail: "5 processes' memory and 3 pages of each file searched"},
			{Text: "every acknowledged write is there after the restore", Held: true, Detail: "48,211 writes verified byte for byte"},
			{Text: "the volume check finds nothing", Held: true, Detail: "0 findings"},
		},
		Passed: true,
	}
	const step = report.Offset(200 * time.Millisecond)
	for t := step; t <= report.Offset(length); t += step {
		s := report.Sample{At: t, State: "online", Mount: "online"}
		busy := func(perSecond float64) int64 { return int64(perSecond * step.Seconds() * (0.8 + 0.4*rnd.Float64())) }
		switch {
		case t > fault && t <= denied:
			s.State = "degraded"
		case t > denied && t <= stopped:
			s.State, s.Mount = "suspending", "suspending"
		case t > stopped && t <= back:
			s.State, s.Mount = "suspended", "suspended"
		case t > back && t <= online:
			s.State, s.Mount = "restoring", "restoring"
		}
		if s.Mount == "online" {
			s.Reads, s.Writes, s.Metadata = busy(11000), busy(1900), busy(420)
		} else {
			s.Errors = busy(1300)
		}
		r.Samples = append(r.Samples, s)
	}
	for t := report.Offset(time.Second); t < report.Offset(length); t += report.Offset(length / 30) {
		c := report.Check{At: t, Class: "ok", Detail: "unwrapped in 12 ms"}
		switch {
		case t > fault && t <= back && t < denied:
			c = report.Check{At: t, Class: "unreachable", Detail: "dial tcp 127.0.0.1:8443: i/o timeout"}
		case t > fault && t <= back:
			c = report.Check{At: t, Class: "denied", Detail: "KeyDisabled: the key is disabled"}
		}
		r.Checks = append(r.Checks, c)
	}
	return r
}

// failed is a drill in which promises were broken.
func failed(name string) *report.Report {
	r := example(name, time.Minute, 2)
	r.Passed, r.Lost, r.Plaintext = false, 3, 1
	r.Expectations[3] = report.Expectation{Text: r.Expectations[3].Text, Detail: "/w1/3 at 4096: 4096 bytes as written, 1.20 s after the stop"}
	r.Expectations[4] = report.Expectation{Text: r.Expectations[4].Text, Detail: "3 of 48,211 writes: /w0/9 at 0, /w0/9 at 8192, /w3/1 at 65536"}
	return r
}

// incomplete is a drill that could not be run.
func incomplete(name string) *report.Report {
	return &report.Report{Drill: name, Title: "the HSM's token is taken out", Started: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		Duration: report.Offset(1200 * time.Millisecond), Failure: "softhsm2-util: exit status 1: Could not initialize the library."}
}

// flapping is a drill with a hundred events.
func flapping(name string) *report.Report {
	r := example(name, 2*time.Minute, 3)
	r.Timeline, r.Title = nil, "the vault comes and goes every few seconds"
	for i := range 100 {
		e := report.Event{At: report.Offset(i) * report.Offset(1200*time.Millisecond), Source: "drill", Kind: report.Fault, Text: fmt.Sprintf("vault away, %d", i/2)}
		if i%2 == 1 {
			e.Kind, e.Text = report.Restore, fmt.Sprintf("vault back, %d", i/2)
		}
		r.Timeline = append(r.Timeline, e)
	}
	return r
}
