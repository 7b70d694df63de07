package drill

import (
	"context"
	"fmt"
	"time"

	"cmkfs/drill/report"
)

// verify ends the work and compares everything.
func (r *run) verify(ctx context.Context) error {
	s, f := r.scene, &r.facts
	r.takeTally()
	for _, a := range r.apps {
		a.Stop()
		if done, failed := a.Counts(); r.drill.Outcome == GoesOn && failed > 0 {
			f.apps = append(f.apps, fmt.Sprintf("%s: %d of %d pieces of work failed", a.Name, failed, done+failed))
		}
	}
	if err := r.crew.Stop(); err != nil {
		f.unsaid = append(f.unsaid, err.Error())
	}
	r.takeTally()
	if err := r.probe.Stop(); err != nil {
		f.unsaid = append(f.unsaid, err.Error())
	}
	f.slots = r.probe.Slots()
	var err error
	if f.verdict, err = r.crew.Verify(); err != nil {
		f.unsaid = append(f.unsaid, err.Error())
	}
	for _, a := range r.apps {
		f.apps = append(f.apps, a.Verify(ctx)...)
	}
	if !s.own {
		return nil
	}
	f.checked = true
	if f.check, err = s.checkVolume(ctx); err != nil {
		f.check = err.Error()
	}
	return nil
}

// takeTally notes what the work has seen since the fault.
func (r *run) takeTally() {
	if r.crew == nil {
		return
	}
	t := r.crew.Total()
	r.facts.errors = map[string]int64{}
	for what, n := range t.Errors {
		if n -= r.before.Errors[what]; n > 0 && !r.facts.injected.IsZero() {
			r.facts.errors[what] = n
		}
	}
	r.facts.longest, r.facts.call = max(t.Longest, t.Waiting), t.Call
}

// end makes the report.
func (r *run) end(failure error) {
	s, f, d := r.scene, &r.facts, r.drill
	r.watch.stop()
	f.degraded, f.decided, f.suspended = r.noticed()
	if len(f.slots) == 0 && r.probe != nil {
		f.slots = r.probe.Slots()
		r.takeTally()
	}
	w := r.watch
	w.mu.Lock()
	for _, c := range w.mu.checks {
		if at := s.began.Add(time.Duration(c.At)); !at.Before(f.injected) && (f.healed.IsZero() || at.Before(f.healed)) {
			f.classes = appendNew(f.classes, c.Class)
		}
	}
	for _, c := range w.mu.causes {
		f.classes = appendNew(f.classes, c)
	}
	r.report.Samples, r.report.Checks = w.mu.samples, w.mu.checks
	w.mu.Unlock()
	s.mu.Lock()
	r.report.Timeline = s.mu.timeline
	s.mu.Unlock()
	r.report.Duration = s.since(time.Now())
	r.report.Expectations = judge(d, s.own, *f)
	r.report.Passed = failure == nil
	for _, e := range r.report.Expectations {
		r.report.Passed = r.report.Passed && e.Held
		r.Live.Expect(e)
	}
	if failure != nil {
		r.report.Failure = failure.Error()
	}
	r.measure()
	for _, what := range sorted(f.errors) {
		call, errno, _ := cutLast(what)
		r.report.Errors = append(r.report.Errors, report.CallErrors{Call: call, Errno: errno, Count: f.errors[what]})
	}
}

// noticed is watch.noticed; a death of the daemon is decided by whoever kills.
func (r *run) noticed() (degraded, decided time.Time, suspended int) {
	degraded, decided, suspended = r.watch.noticed()
	if r.drill.Outcome == Unmounts {
		decided = r.facts.injected
	}
	return degraded, decided, suspended
}

// measure fills in the report's numbers.
func (r *run) measure() {
	f := r.facts
	offset := func(d time.Duration) *report.Offset { o := report.Offset(d); return &o }
	if !f.degraded.IsZero() && !f.injected.IsZero() && r.drill.Outcome == Stops {
		r.report.Detect = offset(max(0, f.degraded.Sub(f.injected)))
	}
	if stop := f.stop(r.drill); stop != nil && r.drill.Outcome != GoesOn {
		r.report.Stop = offset(*stop)
	}
	if !f.recovered.IsZero() {
		r.report.Recover = offset(f.recovered.Sub(f.asked))
	}
	r.report.Acknowledged, r.report.Lost = f.verdict.Acknowledged, f.verdict.Lost
	r.report.Plaintext = int64(len(f.found))
	if !f.ended.IsZero() {
		r.report.Plaintext += plaintext(f.slots, f.ended, f.until(r.drill))
	}
}
