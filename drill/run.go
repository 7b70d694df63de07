package drill

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"cmkfs/drill/apps"
	"cmkfs/drill/probe"
	"cmkfs/drill/report"
	"cmkfs/drill/workload"
)

// Config says how to run drills.
type Config struct {
	Program string // cmkfsd: daemons and the drill's own processes are started from it
	Version string // of it, for the report
	// WorkloadCommand and ProbeCommand are the program's hidden commands for
	// workload.Main and probe.Main; a job follows them.
	WorkloadCommand, ProbeCommand string
	GuardCommand                  string        // likewise, for GuardMain
	Seed                          uint64        // decides what is written and when something is killed
	Duration                      time.Duration // how long an outage is watched at least; 0 = as each drill says
	Break                         Break         // for tests
	Postgres                      bool          // PostgreSQL's pgbench works, too
	Live                          *report.Live  // shows it
}

// Break is something that is broken on purpose, to see that a drill notices.
type Break string

// The ways to break a drill.
const (
	BreakNothing Break = ""
	LostWrite    Break = "lost-write"  // an acknowledged write is not there
	Leak         Break = "leak"        // data can be read after the stop
	LeftBehind   Break = "left-behind" // contents lie in a file of the state directory
	NoFault      Break = "no-fault"    // the outage does not happen, or one that should not be noticed is
	NoReturn     Break = "no-return"   // access does not come back
)

// Breaks are all of them.
var Breaks = []Break{LostWrite, Leak, LeftBehind, NoFault, NoReturn}

// Times of a drill on a quiet machine.
const (
	steadyTime   = 1500 * time.Millisecond
	watchTime    = 1500 * time.Millisecond // after access has ended
	goesOnTime   = 3 * time.Second         // of an outage that must not be noticed
	restoredTime = 1200 * time.Millisecond
	// noticeTime is what a stop may take beyond the lease: it bounds a wait.
	noticeTime = 30 * time.Second
	// drillTime bounds a drill.
	drillTime = 4 * time.Minute
)

// run is one drill under way.
type run struct {
	Config
	drill  Drill
	scene  *scene
	watch  *watch
	crew   *workload.Crew
	probe  *probe.Record
	apps   []*apps.App
	canary string
	facts  facts
	report *report.Report
	before workload.Tally // at the fault
}

// Run runs one drill in a place of its own. The report says in Failure if it
// could not be run to its end.
func Run(ctx context.Context, cfg Config, d Drill) *report.Report {
	ctx, cancel := context.WithTimeout(ctx, mostPace*drillTime)
	defer cancel()
	s, err := newRig(ctx, cfg, d)
	if err != nil {
		return cfg.incomplete(d, fmt.Errorf("making its place: %w", err))
	}
	defer s.close()
	return cfg.on(ctx, s, d)
}

// incomplete is the report of a drill that did not begin.
func (cfg Config) incomplete(d Drill, err error) *report.Report {
	return &report.Report{Drill: d.Name, Title: d.Title, Version: cfg.Version, Seed: cfg.Seed, Started: time.Now(), Failure: err.Error()}
}

// on runs a drill on a scene.
func (cfg Config) on(ctx context.Context, s *scene, d Drill) *report.Report {
	r := &run{Config: cfg, drill: d, scene: s, canary: canary(cfg.Seed, d.Name)}
	s.began = time.Now()
	r.facts.pace = s.pace
	r.report = &report.Report{
		Drill: d.Name, Title: d.Title, Volume: s.account + "/" + s.volume, Version: cfg.Version, Seed: cfg.Seed, Started: s.began,
	}
	var err error
	if r.watch, err = startWatch(ctx, s); err != nil {
		return cfg.incomplete(d, err)
	}
	failure := r.play(ctx)
	r.end(failure)
	return r.report
}

// play is the drill's story. An error is why it could not be told to its end.
func (r *run) play(ctx context.Context) error {
	defer r.phase("")
	r.phase("steady")
	if err := r.begin(ctx); err != nil {
		return err
	}
	if err := r.steady(ctx); err != nil {
		return err
	}
	r.phase("outage")
	if err := r.outage(ctx); err != nil {
		return err
	}
	r.phase("restored")
	if err := r.restore(ctx); err != nil {
		return err
	}
	r.phase("verified")
	return r.verify(ctx)
}

// phase begins a phase and ends the one before.
func (r *run) phase(name string) {
	now := r.scene.since(time.Now())
	if n := len(r.report.Phases); n > 0 && r.report.Phases[n-1].To == 0 {
		r.report.Phases[n-1].To = now
	}
	if name != "" {
		r.report.Phases = append(r.report.Phases, report.Phase{Name: name, From: now})
		r.Live.Phase(name, now)
	}
}

// begin starts the work and the probe.
func (r *run) begin(ctx context.Context) (err error) {
	s := r.scene
	a, _, _, err := s.status(ctx)
	if err != nil {
		return err
	}
	r.report.Source = a.KeySource
	job := probe.Job{Dir: filepath.Join(s.work(), "probe"), Canary: r.canary}
	if r.Break == Leak {
		job.Leak = filepath.Join(s.dir, "leak")
	}
	if r.probe, err = probe.Start([]string{r.Program, r.ProbeCommand}, job); err != nil {
		return err
	}
	s.cleanup(r.probe.Kill)
	writeback := strings.Contains(strings.Join(s.options, ","), "writeback")
	r.crew, err = workload.Start([]string{r.Program, r.WorkloadCommand}, s.work(), s.dir, r.Seed, writeback, r.Break == LostWrite)
	if err != nil {
		return err
	}
	s.cleanup(r.crew.Kill)
	r.watch.work(r.crew)
	return r.beginApps(ctx)
}

// beginApps starts the real applications.
func (r *run) beginApps(ctx context.Context) (err error) {
	s := r.scene
	if r.apps, err = apps.Installed(s.work(), s.dir, r.Postgres); err != nil {
		return err
	}
	for _, a := range r.apps {
		s.cleanup(a.Stop)
		if err := a.Start(ctx); err != nil {
			return err
		}
		r.facts.tried = append(r.facts.tried, a.Name)
	}
	return nil
}

// steady waits until everything works, and a little longer.
func (r *run) steady(ctx context.Context) error {
	s := r.scene
	began := time.Now()
	if err := await(ctx, s.paced(20*time.Second), "the work is under way", func() (bool, error) {
		t := r.crew.Total()
		ok, _ := r.probe.Working(began)
		return ok && t.Reads > 20 && t.Writes > 20 && t.Metadata > 20, nil
	}); err != nil {
		r.facts.unsteady = append(r.facts.unsteady, err.Error())
	}
	if err := pause(ctx, s.paced(steadyTime)); err != nil {
		return err
	}
	t := r.crew.Total()
	r.facts.steady = t.Reads + t.Writes + t.Metadata
	r.facts.unsteady = append(append(r.facts.unsteady, countErrors(t.Errors)...), failures(r.probe.Slots(), time.Time{}, time.Time{})...)
	return nil
}

// outage injects the fault and watches what becomes of it.
func (r *run) outage(ctx context.Context) error {
	s, d := r.scene, r.drill
	r.before = r.crew.Total()
	var pids []int
	if d.Outcome == Unmounts {
		_, _, all, err := s.status(ctx)
		if err != nil {
			return err
		}
		pids = family(all.PID)
	}
	r.watch.outage()
	r.facts.injected = time.Now()
	s.mark(report.Event{At: s.since(r.facts.injected), Source: "drill", Text: "the fault begins: " + d.Title, Kind: report.Fault})
	if err := r.inject(ctx); err != nil {
		return fmt.Errorf("the fault: %w", err)
	}
	hold := max(d.Hold, r.Duration)
	switch d.Outcome {
	case GoesOn:
		if err := pause(ctx, s.paced(max(hold, goesOnTime))); err != nil {
			return err
		}
	case Stops:
		limit := time.Duration(s.policy.OutageGrace) + s.paced(noticeTime)
		if r.Break == NoFault { // nothing is to come
			limit = time.Duration(s.policy.OutageGrace) + s.paced(5*time.Second)
		}
		if err := s.awaitVolume(ctx, limit, "suspended"); err != nil {
			s.note("drill", "%v", err)
			break
		}
		r.facts.ended = time.Now()
		r.search(ctx)
		if err := pause(ctx, max(s.paced(max(watchTime, r.Duration))-time.Since(r.facts.ended), s.paced(hold)-time.Since(r.facts.injected))); err != nil {
			return err
		}
	case Unmounts:
		r.facts.decided = r.facts.injected
		if err := await(ctx, s.paced(mostStop), "all processes of the daemon have ended", func() (bool, error) {
			r.facts.left = nil
			for _, pid := range pids {
				if alive(pid) {
					r.facts.left = append(r.facts.left, fmt.Sprintf("process %d", pid))
				}
			}
			return len(r.facts.left) == 0, nil
		}); err != nil {
			s.note("drill", "%v", err)
			break
		}
		r.facts.ended = time.Now()
		r.search(ctx)
		if err := pause(ctx, s.paced(max(watchTime, hold))); err != nil {
			return err
		}
	}
	r.facts.held = time.Now()
	return ctx.Err()
}

// inject begins the fault, or what is to happen in its place in a test.
func (r *run) inject(ctx context.Context) error {
	switch {
	case r.Break == NoFault && r.drill.Outcome == GoesOn:
		_, err := r.scene.client.SuspendAccount(ctx, r.scene.account)
		return err
	case r.Break == NoFault || r.drill.inject == nil:
		return nil
	}
	return r.drill.inject(ctx, r.scene)
}

// search looks for the canary where nothing of it may be.
func (r *run) search(ctx context.Context) {
	s, f := r.scene, &r.facts
	if r.Break == LeftBehind {
		if err := leaveBehind(s, r.canary); err != nil {
			s.note("drill", "%v", err)
		}
	}
	files, _, err := searchFiles(s.state.Path(), r.canary)
	f.found = append(f.found, files...)
	if err != nil {
		f.found = append(f.found, "not searched: "+err.Error())
	}
	if control, _, err := searchMemory(r.probe.PID(), r.canary); err == nil && len(control) > 0 {
		f.control = true
	}
	_, _, all, err := s.status(ctx)
	if err != nil {
		return // no daemon, no processes
	}
	for _, pid := range family(all.PID) {
		found, n, err := searchMemory(pid, r.canary)
		f.found = append(f.found, found...)
		f.searchedMemory += n
		if err != nil {
			f.found = append(f.found, "not searched: "+err.Error())
		}
	}
}

// restore ends the fault and asks for access.
func (r *run) restore(ctx context.Context) error {
	s, d, f := r.scene, r.drill, &r.facts
	s.endFlapping()
	f.healed = time.Now()
	if d.heal != nil {
		if err := d.heal(ctx, s); err != nil {
			return fmt.Errorf("ending the fault: %w", err)
		}
		s.mark(report.Event{At: s.since(time.Now()), Source: "drill", Text: "the fault has ended", Kind: report.Restore})
	}
	if d.Outcome == GoesOn && r.Break != NoFault {
		return pause(ctx, s.paced(restoredTime))
	}
	f.asked = time.Now()
	if r.Break == NoReturn {
		f.trouble = "nobody gives it back"
		return errors.New("access was not given back, on purpose")
	}
	hook := make(chan error, 1)
	go func() {
		var err error
		if d.restoring != nil {
			err = d.restoring(ctx, s)
		}
		hook <- err
	}()
	back := r.giveBack(ctx)
	if err := <-hook; err != nil {
		back = err
	} else if d.restoring != nil {
		back = r.giveBack(ctx) // whatever the first time has come to
	}
	if back != nil {
		f.trouble = back.Error()
		return fmt.Errorf("giving access back: %w", back)
	}
	var but string
	if err := await(ctx, s.paced(mostRecover), "every route works again", func() (bool, error) {
		var ok bool
		ok, but = r.probe.Working(f.asked)
		return ok, nil
	}); err != nil {
		f.trouble = fmt.Sprintf("%v: %s", err, but)
		return errors.New(f.trouble)
	}
	for _, slot := range r.probe.Slots() {
		if slot.FirstOK.After(f.asked) && (f.recovered.IsZero() || slot.FirstOK.Before(f.recovered)) {
			f.recovered = slot.FirstOK
		}
	}
	s.note("application", "reads and writes succeed again")
	return pause(ctx, s.paced(restoredTime))
}

// giveBack asks for access until it is there.
func (r *run) giveBack(ctx context.Context) error {
	s := r.scene
	remount := r.drill.Outcome == Unmounts || r.drill.Revived
	var last error
	err := await(ctx, s.paced(mostRecover), "access is given back", func() (bool, error) {
		last = s.tryRestore(ctx, remount)
		return last == nil, last
	})
	if err == nil && remount {
		r.crew.Reopen()
		r.probe.Reopen()
	}
	return err
}

// tryRestore asks once.
func (s *scene) tryRestore(ctx context.Context, remount bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.paced(mostRecover))
	defer cancel()
	if remount {
		if err := s.bringDaemon(ctx); err != nil {
			return err
		}
	}
	if _, err := s.client.RestoreAccount(ctx, s.account); err != nil {
		s.note("drill", "restore-access: %v", err)
		return err
	}
	if _, v, _, err := s.status(ctx); err != nil || v.MountPoint != "" || !remount {
		return err
	}
	return s.mountVolume(ctx)
}

// bringDaemon starts a daemon unless one answers.
func (s *scene) bringDaemon(ctx context.Context) error {
	if _, _, _, err := s.status(ctx); err == nil {
		return nil
	}
	s.note("drill", "a new daemon is started")
	if s.adopted != nil {
		return s.adopted.bring(ctx, s.client)
	}
	return s.startDaemon(ctx)
}

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

// pause waits, unless the drill is given up.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}
