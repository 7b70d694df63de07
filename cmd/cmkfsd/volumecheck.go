package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"cmkfs/supervisor"
	"cmkfs/worker"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

type volumeCheckCmd struct {
	Volume string `arg:"" help:"Name of the volume."`
	Scrub  bool   `help:"Read and authenticate every block, too."`
	Repair bool   `help:"First make consistent what can be read: counts, links, files without a name, unused segments."`
	Excise bool   `help:"With --repair: remove what cannot be read, and say what."`
	outputFlag
}

// Help has the command's example.
func (*volumeCheckCmd) Help() string {
	return "Works without a daemon, but needs the key. Nothing is changed without --repair. Exit code 0 says that all is well, 4 that something was found and is still so; findings are numbered, and the numbers keep their meaning.\n\nExample:\n  cmkfsd volume check home --scrub"
}

// checkReport is what -o json prints.
type checkReport struct {
	Volume   string            `json:"volume"`
	Scrub    bool              `json:"scrub"`
	Repaired []worker.Repaired `json:"repaired,omitempty"`
	Findings []worker.Finding  `json:"findings"`
}

// Run looks for damage.
func (c *volumeCheckCmd) Run(s *session) error {
	if c.Excise && !c.Repair {
		return &usageError{message: "--excise belongs to --repair", hint: "add --repair"}
	}
	d, a, err := s.account()
	if err != nil {
		return err
	}
	agent, err := s.keyAgent(d, a, "volume check", c.Volume)
	if err != nil {
		return err
	}
	bar := s.progress("checking " + c.Volume)
	report := checkReport{Volume: c.Volume, Scrub: c.Scrub, Findings: []worker.Finding{}}
	_, err = supervisor.Check{
		Dir: d, Account: a, Volume: c.Volume, Agent: agent, Scrub: c.Scrub, Repair: c.Repair, Excise: c.Excise,
		Progress: func(done, total int64) {
			bar.ChangeMax64(max(total, 1))
			_ = bar.Set64(done) // it can only fail to draw
		},
		Finding:  func(f worker.Finding) { report.Findings = append(report.Findings, f) },
		Repaired: func(r worker.Repaired) { report.Repaired = append(report.Repaired, r) },
	}.Run(s.ctx)
	_ = bar.Clear()
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = s.printJSON(report)
	} else {
		for _, r := range report.Repaired {
			word := "repaired"
			if r.Lost {
				word = "lost"
			}
			fmt.Fprintf(s.out, "%s: %s: %s\n", word, r.Where, r.Text)
		}
		for _, f := range report.Findings {
			fmt.Fprintf(s.out, "[%d] %s: %s\n", f.Code, f.Where, f.Text)
		}
		if len(report.Findings) == 0 {
			fmt.Fprintf(s.out, "volume %s is clean\n", c.Volume)
		}
	}
	if err == nil && len(report.Findings) > 0 {
		err = &findingsError{n: len(report.Findings), repaired: c.Repair}
	}
	return err
}

// progress returns a bar on standard error, which draws nothing if that is not
// a terminal.
func (s *session) progress(what string) *progressbar.ProgressBar {
	var w io.Writer = io.Discard
	if f, ok := s.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		w = f
	}
	return progressbar.NewOptions64(1, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(40), progressbar.OptionThrottle(65*time.Millisecond), progressbar.OptionClearOnFinish())
}
