package report

import (
	"cmp"
	"fmt"
	"html/template"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
)

// pageView is what the page shows.
type pageView struct {
	Policy  string
	CSS     template.CSS
	Scripts []template.JS

	Drills []drillView
	Passed int
	Others []drillView // that have not passed
}

// drillView is a report as the page shows it.
type drillView struct {
	*Report
	ID, Mark, Start string
	Alternative     string  // to the plot, in words
	Events          []Event // the timeline by time: what is seen late is told late
	Times           []timeView
	PhaseRows       []phaseView
	Plot            plotData
}

// timeView is a time with what it is measured between.
type timeView struct{ Name, Value, Meaning string }

// phaseView says in numbers what the plot shows of a phase.
type phaseView struct {
	Name, From, Took, Reads, Writes, Metadata, Errors, States, Checks string
}

func newPageView(reports []*Report) *pageView {
	p := &pageView{Drills: []drillView{}}
	for i, r := range reports {
		d := drillView{
			Report: r,
			ID:     fmt.Sprintf("drill-%d", i+1), // a drill may be there more than once
			Mark:   map[string]string{"passed": "✓", "failed": "✗", "incomplete": "!"}[r.Verdict()],
			Start:  r.Started.UTC().Format(time.DateTime),
			Times: []timeView{
				{"detect", show(r.Detect), "from the fault to the state that says so"},
				{"stop", show(r.Stop), "from the daemon's decision to the last operation that succeeded"},
				{"recover", show(r.Recover), "from the key's return, or the restore, to the first operation that succeeded"},
			},
			Plot:        newPlotData(r),
			Alternative: r.alternative(),
			Events:      slices.SortedStableFunc(slices.Values(r.Timeline), func(a, b Event) int { return cmp.Compare(a.At, b.At) }),
		}
		for _, ph := range r.Phases {
			d.PhaseRows = append(d.PhaseRows, r.phase(ph))
		}
		if r.Passed {
			p.Passed++
		} else {
			p.Others = append(p.Others, d)
		}
		p.Drills = append(p.Drills, d)
	}
	return p
}

// phase sums up what happened between the ends of a phase.
func (r *Report) phase(ph Phase) phaseView {
	var sum Sample
	var states, checks []string
	for _, s := range r.Samples {
		if s.At <= ph.From || s.At > ph.To {
			continue
		}
		sum.Reads += s.Reads
		sum.Writes += s.Writes
		sum.Metadata += s.Metadata
		sum.Errors += s.Errors
		if s.State != "" && !slices.Contains(states, s.State) {
			states = append(states, s.State)
		}
	}
	var classes = map[string]int{}
	for _, c := range r.Checks {
		if c.At > ph.From && c.At <= ph.To {
			if classes[c.Class] == 0 {
				checks = append(checks, c.Class)
			}
			classes[c.Class]++
		}
	}
	for i, class := range checks {
		checks[i] = fmt.Sprintf("%d %s", classes[class], class)
	}
	rate := func(n int64) string {
		took := (ph.To - ph.From).Seconds()
		if took <= 0 {
			return dash("")
		}
		return humanize.Comma(int64(float64(n) / took))
	}
	return phaseView{ph.Name, ph.From.String(), (ph.To - ph.From).String(), rate(sum.Reads), rate(sum.Writes), rate(sum.Metadata),
		rate(sum.Errors), list(states), list(checks)}
}

// alternative says in words what the plot shows.
func (r *Report) alternative() string {
	s := fmt.Sprintf("Timeline of %v.", r.Duration)
	for _, lane := range []struct {
		name  string
		state func(Sample) string
	}{{"The account", accountState}, {"The mount", mountState}} {
		var parts []string
		for _, run := range r.runs(lane.state) {
			parts = append(parts, fmt.Sprintf("%s from %v to %v", run.Name, run.From, run.To))
			if len(parts) == 20 {
				parts = append(parts, "and so on")
				break
			}
		}
		if len(parts) > 0 {
			s += fmt.Sprintf(" %s was %s.", lane.name, list(parts))
		}
	}
	return s + " The tables below have the same in numbers."
}
