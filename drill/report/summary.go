package report

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Summary writes a table of what the drills found, a row for each, and below
// it what did not hold. Its columns may change; the JSON's fields do not.
func Summary(w io.Writer, reports []*Report) error {
	t := table.NewWriter()
	style := table.StyleRounded
	style.Format.Header, style.Format.Footer = text.FormatDefault, text.FormatDefault
	t.SetStyle(style)
	var columns []table.ColumnConfig
	for n := 3; n <= 10; n++ {
		columns = append(columns, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight, AlignFooter: text.AlignRight})
	}
	t.SetColumnConfigs(columns)
	t.AppendHeader(table.Row{"drill", "verdict", "took", "detect", "stop", "recover", "errors", "writes", "lost", "plaintext"})
	var sum Report
	var errors int64
	passed := 0
	for _, r := range reports {
		if r.Passed {
			passed++
		}
		t.AppendRow(table.Row{plain(r.Drill), r.Verdict(), r.Duration, show(r.Detect), show(r.Stop), show(r.Recover),
			humanize.Comma(r.errorCount()), humanize.Comma(r.Acknowledged), r.Lost, r.Plaintext})
		errors += r.errorCount()
		sum.Duration += r.Duration
		sum.Acknowledged += r.Acknowledged
		sum.Lost += r.Lost
		sum.Plaintext += r.Plaintext
	}
	t.AppendFooter(table.Row{fmt.Sprintf("%d drills", len(reports)), fmt.Sprintf("%d passed", passed), Offset(time.Duration(sum.Duration).Round(time.Second)),
		"", "", "", humanize.Comma(errors), humanize.Comma(sum.Acknowledged), sum.Lost, sum.Plaintext})
	out := t.Render() + "\n"
	for _, r := range reports {
		for _, why := range r.reasons() {
			out += plain(r.Drill+": "+why) + "\n"
		}
	}
	_, err := io.WriteString(w, out)
	return err
}

// Verdict is passed, failed, or incomplete for a drill that could not be run to
// its end.
func (r *Report) Verdict() string {
	switch {
	case r.Failure != "":
		return "incomplete"
	case r.Passed:
		return "passed"
	default:
		return "failed"
	}
}

// reasons says why a drill has not passed.
func (r *Report) reasons() []string {
	var all []string
	if r.Failure != "" {
		all = append(all, "incomplete: "+r.Failure)
	}
	for _, e := range r.Expectations {
		if !e.Held {
			all = append(all, "not held: "+e.Text+": "+e.Detail)
		}
	}
	return all
}

// errorCount is the number of system calls that failed.
func (r *Report) errorCount() int64 {
	var n int64
	for _, e := range r.Errors {
		n += e.Count
	}
	return n
}
