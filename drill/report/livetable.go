package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// painter colours a text, or leaves it.
type painter func(s string, colours ...text.Color) string

// heading is the first line of a drill.
func heading(h Heading) string {
	s := h.Drill
	if h.Title != "" {
		s += ": " + h.Title
	}
	if h.Of > 1 {
		s = fmt.Sprintf("%d/%d %s", h.Number, h.Of, s)
	}
	return s
}

// elapsed is the time that has passed, of the time planned.
func (p *progress) elapsed() string {
	if p.Planned == 0 {
		return p.now.String()
	}
	return fmt.Sprintf("%v of %v", p.now, Offset(p.Planned))
}

// line is the drill in one line.
func (p *progress) line() string {
	r := p.rates.shown
	return fmt.Sprintf("%8s  %s, account %s, mount %s: %s reads/s, %s writes/s, %s metadata/s, %s errors/s; %s",
		p.now, dash(p.phase.Name), dash(p.state.name), dash(p.mount.name), humanize.Comma(r.Reads), humanize.Comma(r.Writes),
		humanize.Comma(r.Metadata), humanize.Comma(r.Errors), p.held())
}

// held counts the expectations.
func (p *progress) held() string {
	held, failed := 0, 0
	for _, e := range p.expectations {
		switch {
		case e.known && e.Held:
			held++
		case e.known:
			failed++
		}
	}
	s := fmt.Sprintf("%d of %d expectations held", held, len(p.expectations))
	if failed > 0 {
		s += fmt.Sprintf(", %d not", failed)
	}
	return s
}

// table is the drill as a table, at most width characters wide.
func (p *progress) table(width int, paint painter) string {
	t := table.NewWriter()
	style := table.StyleRounded
	style.Options.SeparateRows = false
	style.Size = table.SizeOptions{WidthMin: width, WidthMax: width}
	t.SetStyle(style)
	const label, frame = 12, 7 // characters of the first column, and of the borders
	cells := width - label - frame
	t.SetColumnConfigs([]table.ColumnConfig{
		{Number: 1, WidthMin: label, WidthMax: label},
		{Number: 2, WidthMin: cells, WidthMax: cells},
	})
	row := func(name, value string) { t.AppendRow(table.Row{name, text.Snip(value, cells, "…")}) }

	row("drill", paint(heading(p.Heading), text.Bold))
	row("progress", p.bar(min(40, cells/2))+" "+p.elapsed())
	row("phase", fmt.Sprintf("%s for %v", dash(p.phase.Name), p.now-p.phase.From))
	row("account", p.state.show(p.now, paint))
	row("mount", p.mount.show(p.now, paint))
	r := p.rates.shown
	row("per second", fmt.Sprintf("%s reads, %s writes, %s metadata", humanize.Comma(r.Reads), humanize.Comma(r.Writes), humanize.Comma(r.Metadata)))
	row("errors", fmt.Sprintf("%s per second, %s so far", humanize.Comma(r.Errors), humanize.Comma(p.errors)))
	row("checks", p.checked())
	row("last event", p.lastEvent.line())
	t.AppendSeparator()
	row("expected", p.held())
	for _, e := range p.expectations {
		switch {
		case !e.known:
			row("  …", e.Text)
		case e.Held:
			row(paint("  ✓ held", text.FgGreen), e.Text)
		default:
			row(paint("  ✗ not held", text.FgRed), paint(e.Text+": "+e.Detail, text.FgRed))
		}
	}
	return t.Render()
}

// bar shows how much of the planned time has passed.
func (p *progress) bar(width int) string {
	if p.Planned <= 0 {
		return ""
	}
	done := min(width, int(float64(width)*p.now.Seconds()/p.Planned.Seconds()))
	return strings.Repeat("█", done) + strings.Repeat("░", width-done)
}

// show prints a state with its colour and age.
func (h held) show(now Offset, paint painter) string {
	if h.name == "" {
		return dash("")
	}
	colour := text.FgYellow
	switch h.name {
	case "online":
		colour = text.FgGreen
	case "suspended", "no daemon":
		colour = text.FgRed
	}
	return fmt.Sprintf("%s for %v", paint(h.name, colour), now-h.since)
}

// checked counts the checks of the key by class, and shows the last.
func (p *progress) checked() string {
	if len(p.checks) == 0 {
		return "none yet"
	}
	var all []string
	for _, class := range slices.Sorted(maps.Keys(p.checks)) {
		all = append(all, fmt.Sprintf("%d %s", p.checks[class], class))
	}
	s := strings.Join(all, ", ")
	if p.lastCheck.Detail != "" {
		s += "; last: " + p.lastCheck.Detail
	}
	return s
}

func (e Event) line() string {
	if e.Text == "" {
		return dash("")
	}
	return fmt.Sprintf("%v %s: %s", e.At, e.Source, e.Text)
}

// dash stands for what is not known.
func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
