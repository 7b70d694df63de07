package drill

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
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
	ctx, cancel := context.WithTimeout(ctx, s.paced(drillTime))
	defer cancel()
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
	if err := await(ctx, s.paced(time.Minute), "the work is under way", func() (bool, error) {
		t := r.crew.Total()
		ok, _ := r.probe.Working(began)
		idle := slices.ContainsFunc(r.apps, func(a *apps.App) bool {
			done, _ := a.Counts()
			return done == 0
		})
		return ok && !idle && t.Reads > 20 && t.Writes > 20 && t.Metadata > 20, nil
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
