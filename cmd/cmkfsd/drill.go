package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"cmkfs/drill"
	"cmkfs/drill/probe"
	"cmkfs/drill/report"
	"cmkfs/drill/workload"
)

// The hidden commands of a drill's own processes.
const (
	drillWorkCommand  = "drill-work"
	drillProbeCommand = "drill-probe"
)

// drillProcess is the life of a drill's process; it returns if this is none.
func drillProcess(args []string) {
	switch {
	case len(args) < 3:
	case args[1] == drillWorkCommand:
		workload.Main(args[2])
	case args[1] == drillProbeCommand:
		probe.Main(args[2])
	}
}

type drillCmds struct {
	List drillListCmd `cmd:"" help:"List the drills."`
	Run  drillRunCmd  `cmd:"" help:"Rehearse outages of a key."`
}

type drillListCmd struct{ outputFlag }

// Help has the command's example.
func (*drillListCmd) Help() string {
	return "Example:\n  cmkfsd drill list"
}

// drillView is a drill as -o json prints it.
type drillView struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Needs    string   `json:"needs"`    // emulator, SoftHSM, any key
	Outcome  string   `json:"outcome"`  // stops, goes on, unmounts
	Own      string   `json:"notYours"` // why it is not done to a volume of yours; "" = it can be
	Promises []string `json:"promises"` // what is held against what was seen
}

// Run lists the drills.
func (c *drillListCmd) Run(s *session) error {
	views := []drillView{}
	var rows [][]string
	for _, d := range drill.Catalogue() {
		v := drillView{Name: d.Name, Title: d.Title, Needs: d.Needs(), Outcome: string(d.Outcome), Own: d.Own, Promises: d.Promises()}
		yours := "yes"
		if v.Own != "" {
			yours = "no"
		}
		views, rows = append(views, v), append(rows, []string{v.Name, v.Needs, v.Outcome, yours, v.Title})
	}
	if c.Output == "json" {
		return s.printJSON(views)
	}
	s.printTable([]string{"drill", "key", "access", "--volume", "what happens"}, rows)
	return nil
}

type drillRunCmd struct {
	Names    []string      `arg:"" name:"name" help:"Names of drills, or all."`
	Duration time.Duration `placeholder:"10s" help:"How long an outage is watched at least."`
	Seed     uint64        `placeholder:"N" help:"Repeat what a run has chosen at random (a new one)."`
	Report   string        `placeholder:"DIR" type:"path" help:"Write a report of each drill there, as JSON, and a page of all of them for a browser."`
	Break    string        `hidden:"" enum:",lost-write,leak,left-behind,no-fault,no-return" default:"" help:"Break something on purpose, to see that it is noticed."`
	outputFlag
}

// Help has the command's examples.
func (*drillRunCmd) Help() string {
	return `Each drill makes a place of its own (a daemon, an account, a volume, a key in an emulated vault or on a SoftHSM token), makes the volume busy with data that can be checked byte for byte, takes the key away, watches what programs see, gives it back and compares everything. Nothing outside is touched, and nothing is left behind. Exit code 4 says that a promise did not hold.

Examples:
  cmkfsd drill run key-disabled
  cmkfsd drill run all --report /tmp/drills`
}

// Run runs drills.
func (c *drillRunCmd) Run(s *session) error {
	drills, err := drill.Choose(c.Names)
	if err != nil {
		return &usageError{message: err.Error(), hint: "see what there is: cmkfsd drill list"}
	}
	if os.Geteuid() != 0 {
		return &hinted{fmt.Errorf("only root may mount"), "run the drill as root"}
	}
	if !drill.Inside() {
		exit, err := drill.Isolate(s.ctx, os.Args, s.out, s.err)
		if err != nil {
			return err
		}
		return exitCode(exit)
	}
	if err := drill.Enter(); err != nil {
		return err
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()>>11 + 1 // a number that every JSON reader keeps
	}
	live := io.Writer(os.Stdout)
	if c.Output == "json" {
		live = s.err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cfg := drill.Config{
		Program: program, Version: version, WorkloadCommand: drillWorkCommand, ProbeCommand: drillProbeCommand,
		Seed: c.Seed, Duration: c.Duration, Break: drill.Break(c.Break), Live: report.NewLive(live),
	}
	return c.run(s.ctx, s, cfg, drills)
}

// run runs one drill after another and reports.
func (c *drillRunCmd) run(ctx context.Context, s *session, cfg drill.Config, drills []drill.Drill) error {
	var reports []*report.Report
	failed := 0
	for i, d := range drills {
		cfg.Live.Begin(report.Heading{Drill: d.Name, Title: d.Title, Number: i + 1, Of: len(drills), Expectations: d.Promises()})
		r, err := drill.Run(ctx, cfg, d)
		if err != nil {
			return err
		}
		cfg.Live.End(r)
		reports = append(reports, r)
		if !r.Passed {
			failed++
		}
		if c.Report != "" {
			if err := report.WriteJSON(c.Report, r); err != nil {
				return err
			}
			if err := report.WriteHTML(c.Report, reports); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err := c.show(s, cfg.Seed, reports); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d of %d drills", len(reports), len(drills))
	}
	if failed > 0 {
		return &drillsFailed{failed, len(reports), cfg.Seed}
	}
	return nil
}

// show prints the reports.
func (c *drillRunCmd) show(s *session, seed uint64, reports []*report.Report) error {
	if c.Output == "json" {
		return s.printJSON(reports)
	}
	if len(reports) > 1 {
		if err := report.Summary(s.out, reports); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.out, "seed %d\n", seed)
	if c.Report != "" {
		fmt.Fprintf(s.out, "report: %s\n", filepath.Join(c.Report, "report.html"))
	}
	return nil
}

// drillsFailed ends a run in which promises did not hold, which was printed.
type drillsFailed struct {
	n, of int
	seed  uint64
}

func (e *drillsFailed) Error() string {
	return fmt.Sprintf("%d of %d drills did not pass (seed %d)", e.n, e.of, e.seed)
}

// exitCode ends with a code; what it means was printed by another process.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
