package main

import (
	"bufio"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// report is a run, as a line of docs/performance.jsonl has it.
type report struct {
	Format      int               `json:"format"` // 1; a change of meaning counts it up
	Environment map[string]string `json:"environment"`
	Options     string            `json:"options"`
	Rows        []row             `json:"rows"`
}

const (
	textFile  = "docs/performance.txt"
	linesFile = "docs/performance.jsonl"
)

// environment describes the machine and the programs.
func environment(load string, taking []rival) map[string]string {
	said := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).Output()
		return strings.TrimSpace(string(out))
	}
	env := map[string]string{
		"date": time.Now().UTC().Format(time.RFC3339), "cmkfs": said("git", "describe", "--always", "--dirty"),
		"go": said("go", "env", "GOVERSION"), "kernel": said("uname", "-r"),
		"cpus": strconv.Itoa(runtime.NumCPU()), "cpu": cpuModel(), "load": load,
	}
	for _, r := range taking {
		if v := r.version(); v != "" {
			env[r.name] = v
		}
	}
	return env
}

// cpuModel is the processor's name.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// loadAverage is how busy the machine was of late.
func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b) + " - -")
	return f[0] + " " + f[1]
}

// describe puts the options into words.
func (b *bench) describe() string {
	o := b.options
	words := fmt.Sprintf("%d repetitions (the others %d)", o.reps, o.sides)
	if o.quick {
		words += ", small sizes"
	}
	if o.mount != "" {
		words += ", -o " + o.mount
	}
	if o.checks {
		words += ", the others for all users"
	}
	words += fmt.Sprintf(", strangers used %.2f cores at most", b.results.noise)
	if b.leftOut > 0 {
		words += fmt.Sprintf(", %d turns left out after %s", b.leftOut, o.budget)
	}
	return words
}

// show rounds a figure to three digits or so.
func show(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v >= 100:
		return strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func (f figure) String() string {
	if f.N == 0 && f.Missing != "" {
		return f.Missing
	}
	return show(f.Median)
}

// plainTable is a table for a text file.
func plainTable() table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleDefault)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.Style().Box.PaddingLeft = ""
	t.Style().Format.Header = text.FormatDefault
	t.SuppressTrailingSpaces()
	return t
}

// text is the block of docs/performance.txt.
func (r report) text() string {
	e := r.Environment
	var b strings.Builder
	fmt.Fprintf(&b, "\n== %.10s cmkfs %s, %s, Linux %s, %s x %s, %s, load average before: %s\n",
		e["date"], e["cmkfs"], e["go"], e["kernel"], e["cpus"], e["cpu"], r.Options, e["load"])
	var peers []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if slices.ContainsFunc(rivals, func(r rival) bool { return r.name == name && name != cmkfs }) {
			peers = append(peers, e[name])
		}
	}
	fmt.Fprintf(&b, "   %s\n", strings.Join(peers, ", "))

	t := plainTable()
	var head table.Row
	head = append(head, "workload", "unit")
	var columns []string
	for _, c := range rivals {
		if slices.ContainsFunc(r.Rows, func(w row) bool { return w.Figures[c.name] != figure{} }) {
			columns = append(columns, c.name)
			head = append(head, c.name)
		}
	}
	both := slices.Contains(columns, rootOnly)
	head = append(head, "x gocryptfs")
	if both {
		head = append(head, rootOnly+" x")
	}
	head = append(head, "x native", "of ceiling", "verdict")
	t.AppendHeader(head)
	var align []table.ColumnConfig
	for i := 3; i < len(head); i++ {
		align = append(align, table.ColumnConfig{Number: i, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(align)
	for _, w := range r.Rows {
		line := table.Row{w.Workload + " " + w.Metric, w.Unit}
		for _, c := range columns {
			line = append(line, w.Figures[c])
		}
		share := "-"
		if w.OfCeiling > 0 {
			share = fmt.Sprintf("%.0f %%", 100*w.OfCeiling)
		}
		line = append(line, show(w.OverGocryptfs))
		if both {
			line = append(line, show(w.RootOnlyOver))
		}
		t.AppendRow(append(line, show(w.OverNative), share, w.Verdict))
	}
	b.WriteString(t.Render())
	fmt.Fprintf(&b, "\ntargets missed: %d of %d\n", r.missed(), r.judged())
	return b.String()
}

// missed counts the rows with a target that was not reached.
func (r report) missed() (n int) {
	for _, w := range r.Rows {
		if strings.HasPrefix(w.Verdict, "missed") {
			n++
		}
	}
	return n
}

// judged counts the rows with a verdict.
func (r report) judged() (n int) {
	for _, w := range r.Rows {
		if w.Verdict != "" {
			n++
		}
	}
	return n
}

// append records the run.
func (r report) append(block string) error {
	f, err := os.OpenFile(textFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.WriteString(block); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	r.Format = 1
	return appendLines(linesFile, []report{r})
}
