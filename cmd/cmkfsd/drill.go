package main

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	drillGuardCommand = "drill-guard"
)

// drillProcess is the life of a drill's process; it returns if this is none.
func drillProcess(args []string) {
	switch {
	case args[1] == drillGuardCommand:
		if err := drill.GuardMain(); err != nil {
			fmt.Println(err)
			os.Exit(exitFailure)
		}
		os.Exit(exitOK)
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
	Needs    string   `json:"needs"`         // emulator, SoftHSM, any key
	Outcome  string   `json:"outcome"`       // stops, goes on, unmounts
	Own      string   `json:"notWithVolume"` // why --volume refuses it; "" = it does not
	Promises []string `json:"promises"`      // what is held against what was seen
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
	Volume   string        `placeholder:"V" help:"Drill this mounted volume instead of one of the drill's own. All volumes of its account lose access for some seconds."`
	Yes      bool          `help:"Do not ask before a volume is drilled."`
	Duration time.Duration `placeholder:"10s" help:"How long an outage is watched at least."`
	Seed     uint64        `placeholder:"N" help:"Repeat what a run has chosen at random (a new one)."`
	Report   string        `placeholder:"DIR" type:"path" help:"Write a report of each drill there, as JSON, and a page of all of them for a browser."`
	With     string        `enum:",postgres" default:"" placeholder:"postgres" help:"Have PostgreSQL's pgbench work on the volume, too."`
	Break    string        `hidden:"" enum:",lost-write,leak,left-behind,no-fault,no-return" default:"" help:"Break something on purpose, to see that it is noticed."`
	outputFlag
}

// Help has the command's examples.
func (*drillRunCmd) Help() string {
	return `Each drill makes a place of its own (a daemon, an account, a volume, a key in an emulated vault or on a SoftHSM token), makes the volume busy with data that can be checked byte for byte, takes the key away, watches what programs see, gives it back and compares everything. Nothing outside is touched, and nothing is left behind. Exit code 4 says that a promise did not hold.

With --volume it is your volume, your account and your vault that are drilled, with those drills that need no power over the vault; what is changed for that is put back, also if the drill is interrupted or killed.

Examples:
  cmkfsd drill run key-disabled
  cmkfsd drill run all --report /tmp/drills
  cmkfsd drill run vault-refused --volume home`
}

// Run runs drills.
func (c *drillRunCmd) Run(s *session) error {
	drills, err := drill.Choose(c.Names)
	if err != nil {
		return &usageError{message: err.Error(), hint: "see what there is: cmkfsd drill list"}
	}
	if os.Geteuid() != 0 {
		return &hinted{errors.New("only root may mount"), "run the drill as root"}
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()>>11 + 1 // a number that every JSON reader keeps
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	live := s.out
	if c.Output == "json" {
		live = s.err
	}
	cfg := drill.Config{
		Program: program, Version: version, WorkloadCommand: drillWorkCommand, ProbeCommand: drillProbeCommand, GuardCommand: drillGuardCommand,
		Seed: c.Seed, Duration: c.Duration, Postgres: c.With == "postgres", Break: drill.Break(c.Break), Live: report.NewLive(live),
	}
	if c.Volume != "" {
		return c.runVolume(s, cfg, drills)
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
	return c.runAll(s, cfg, drills, func(d drill.Drill) (*report.Report, error) { return drill.Run(s.ctx, cfg, d), nil })
}

// runVolume drills a user's volume.
func (c *drillRunCmd) runVolume(s *session, cfg drill.Config, drills []drill.Drill) error {
	_, name, err := s.runningDaemonFor()
	if err != nil {
		return err
	}
	dir, err := s.dir()
	if err != nil {
		return err
	}
	a, err := drill.Adopt(s.ctx, dir, name, c.Volume)
	if err != nil {
		return err
	}
	var possible []drill.Drill
	for _, d := range drills {
		why := a.Refuses(d)
		switch {
		case why == "":
			possible = append(possible, d)
		case slices.Contains(c.Names, d.Name):
			return &usageError{message: fmt.Sprintf("drill %s cannot be done to a volume of yours: %s", d.Name, why), hint: "leave --volume out, or see which can: cmkfsd drill list"}
		}
	}
	if err := c.confirm(s, a, possible); err != nil {
		return err
	}
	return c.runAll(s, cfg, possible, func(d drill.Drill) (*report.Report, error) { return drill.RunOn(s.ctx, cfg, a, d) })
}

// confirm asks whether the volume may be drilled.
func (c *drillRunCmd) confirm(s *session, a *drill.Adopted, drills []drill.Drill) error {
	if c.Yes {
		return nil
	}
	fmt.Fprintf(s.err, "%d drills on volume %s of account %s, mounted on %s.\n", len(drills), a.Volume, a.Account, a.MountPoint)
	fmt.Fprintf(s.err, "During each, programs lose access to all volumes of account %s for some seconds, and get errors.\n", a.Account)
	if slices.ContainsFunc(drills, func(d drill.Drill) bool { return d.Daemon }) {
		fmt.Fprintln(s.err, "The daemon is killed: open files of the volume are lost, and it is mounted again.")
	}
	fmt.Fprintf(s.err, "The account's policy and its vault's address are changed meanwhile, and put back.\nType the volume's name to go on: ")
	said, _ := bufio.NewReader(os.Stdin).ReadString('\n') // nothing is a no
	if strings.TrimSpace(said) != a.Volume {
		return &usageError{message: "the volume was not drilled", hint: "type its name, or give --yes"}
	}
	return nil
}

// runAll runs one drill after another and reports.
func (c *drillRunCmd) runAll(s *session, cfg drill.Config, drills []drill.Drill, run func(drill.Drill) (*report.Report, error)) error {
	ctx := s.ctx
	reports := []*report.Report{}
	failed := 0
	for i, d := range drills {
		cfg.Live.Begin(report.Heading{Drill: d.Name, Title: d.Title, Number: i + 1, Of: len(drills), Expectations: d.Promises()})
		r, err := run(d)
		cfg.Live.End(r)
		if err != nil {
			return err
		}
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
