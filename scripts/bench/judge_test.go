package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func fig(v float64) figure { return figure{Median: v, Min: v, Max: v, N: 1} }

func TestSummarize(t *testing.T) {
	if f := summarize([]float64{3, 1, 2}); f != (figure{Median: 2, Min: 1, Max: 3, N: 3}) {
		t.Errorf("odd: %+v", f)
	}
	if f := summarize([]float64{4, 1}); f != (figure{Median: 2.5, Min: 1, Max: 4, N: 2}) {
		t.Errorf("even: %+v", f)
	}
}

// TestGain: above 1 is better, in every unit; nothing is made of what is missing.
func TestGain(t *testing.T) {
	for _, c := range []struct {
		unit        string
		mine, other figure
		want        float64
	}{
		{"MB/s", fig(200), fig(100), 2},
		{"IOPS", fig(50), fig(100), 0.5},
		{"s", fig(2), fig(1), 0.5},
		{"us", fig(1), fig(3), 3},
		{"MiB", fig(100), fig(10), 0.1},
		{"s", fig(1), figure{}, 0},
		{"s", figure{Missing: ">30 s"}, fig(1), 0},
		{"s", fig(0), fig(1), 0},
	} {
		if got := gain(c.unit, c.mine, c.other); got != c.want {
			t.Errorf("%s of %v over %v: %v, want %v", c.unit, c.mine, c.other, got, c.want)
		}
	}
}

// TestVerdict has one row for each way to meet a target and to miss it.
func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		id      rowID
		unit    string
		figures map[string]figure
		want    string // "" = none, else its beginning
	}{
		"met":              {rowID{"A", "seq_write"}, "MB/s", map[string]figure{cmkfs: fig(600), gocryptfs: fig(300), native: fig(1000)}, "met"},
		"below gocryptfs":  {rowID{"A", "seq_write"}, "MB/s", map[string]figure{cmkfs: fig(599), gocryptfs: fig(300), native: fig(900)}, "missed: 2.00 of 2.00 x gocryptfs"},
		"below native":     {rowID{"A", "seq_write"}, "MB/s", map[string]figure{cmkfs: fig(600), gocryptfs: fig(300), native: fig(1200)}, "missed: 0.50 of 0.60 x native"},
		"slower than peer": {rowID{"F", "create"}, "ops/s", map[string]figure{cmkfs: fig(900), gocryptfs: fig(300), "securefs": fig(1000)}, "missed: slower than securefs (0.90)"},
		"seconds":          {rowID{"G", "untar"}, "s", map[string]figure{cmkfs: fig(2), gocryptfs: fig(5), native: fig(0.4)}, "met"},
		"peer too slow":    {rowID{"G", "untar"}, "s", map[string]figure{cmkfs: fig(2), gocryptfs: fig(5), "cryfs": {Missing: ">30 s"}}, "met"},
		"peer not durable": {rowID{"H", "insert_wal"}, "s", map[string]figure{cmkfs: fig(2), gocryptfs: fig(5), "cryfs": fig(0.1)}, "met"},
		"cmkfs failed":     {rowID{"G", "untar"}, "s", map[string]figure{cmkfs: {Missing: "failed"}, gocryptfs: fig(5)}, "missed: cmkfs failed"},
		"nobody else":      {rowID{"G", "untar"}, "s", map[string]figure{cmkfs: fig(2)}, ""},
		"no target, peers": {rowID{"G", "du_warm"}, "s", map[string]figure{cmkfs: fig(2), gocryptfs: fig(1)}, "missed: slower than gocryptfs"},
		"a cost":           {rowID{"F", "daemon_peak_rss"}, "MiB", map[string]figure{cmkfs: fig(200), gocryptfs: fig(1)}, ""},
		"a judged cost":    {rowID{"A", "daemon_cpu_per_gib"}, "s", map[string]figure{cmkfs: fig(0.69), gocryptfs: fig(1), "securefs": fig(0.1)}, "met"},
		"a stall":          {rowID{"L", "small_op_p999"}, "us", map[string]figure{cmkfs: fig(50001), gocryptfs: fig(1)}, "missed: 50001 of at most 50000 us"},
		"one program":      {rowID{"L", "small_ops"}, "ops/s", map[string]figure{cmkfs: fig(900), gocryptfs: fig(1000)}, ""},
		"both programs":    {rowID{"L", "both_programs"}, "ops/s", map[string]figure{cmkfs: fig(900), gocryptfs: fig(1000)}, "missed: slower than gocryptfs"},
		"no stall":         {rowID{"L", "small_op_p999"}, "us", map[string]figure{cmkfs: fig(900), gocryptfs: fig(1)}, "met"},
	} {
		w := row{Unit: c.unit, Figures: c.figures,
			OverGocryptfs: gain(c.unit, c.figures[cmkfs], c.figures[gocryptfs]), OverNative: gain(c.unit, c.figures[cmkfs], c.figures[native])}
		got := w.verdict(c.id)
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// lines is what three fsbench runs wrote, the last of them ended in the middle.
const lines = `{"label":"native","workload":"F","metric":"create","value":50000,"unit":"ops/s","min":1,"max":1,"n":1,"samples":[50000]}
{"label":"native","workload":"F","metric":"foreign_cpu","value":0.2,"unit":"cores","min":1,"max":1,"n":1,"samples":[0.2]}
{"label":"cmkfs","workload":"F","metric":"create","value":8000,"unit":"ops/s","min":1,"max":1,"n":1,"samples":[8000]}
{"label":"cmkfs","workload":"F","metric":"create","value":9000,"unit":"ops/s","min":1,"max":1,"n":1,"samples":[9000]}
{"label":"cmkfs","workload":"F","metric":"stat","value":9000,"unit":"ops/s","min":1,"max":1,"n":1,"samples":[9000]}
{"label":"cryfs","workload":"F","metric":"create","value":2000,"unit":"ops/s","min":1,"max":1,"n":1,"samples":[2000]}
`

// TestResults goes from fsbench's lines to the table and the recorded line.
func TestResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "samples")
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := readSamples(path)
	if err != nil || len(all) != 6 {
		t.Fatalf("%d lines, %v", len(all), err)
	}
	r := newResults()
	for _, s := range all {
		failed := ""
		if s.Label == "cryfs" {
			failed = ">30 s"
		}
		r.add(s.Label, "F", []sample{s}, failed)
	}
	rows := r.judge()
	if len(rows) != 2 || rows[0].Metric != "create" || rows[1].Metric != "stat" || r.noise != 0.2 {
		t.Fatalf("rows %+v, noise %v", rows, r.noise)
	}
	create, stat := rows[0], rows[1]
	if create.Figures[cmkfs].Median != 8500 || create.Figures[cmkfs].N != 2 || create.OverNative != 8500.0/50000 {
		t.Errorf("create: %+v", create)
	}
	if create.Figures["cryfs"].Median != 2000 || stat.Figures["cryfs"].Missing != ">30 s" {
		t.Errorf("cryfs: %+v, %+v", create.Figures["cryfs"], stat.Figures["cryfs"])
	}

	rep := report{Format: 1, Environment: map[string]string{"date": "2026-11-26T20:00:00Z", "cmkfs": "v1", gocryptfs: "gocryptfs 2.3"}, Rows: rows}
	text := rep.text()
	for _, want := range []string{"== 2026-11-26 cmkfs v1", "gocryptfs 2.3", "F create", ">30 s", "0.17", "targets missed: 1 of"} {
		if !strings.Contains(text, want) {
			t.Errorf("the block lacks %q:\n%s", want, text)
		}
	}
	recorded := filepath.Join(t.TempDir(), "lines")
	if err := appendLines(recorded, []report{rep}); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"format":1`, `"workload":"F","metric":"create","unit":"ops/s"`, `"cryfs":{"median":0,"min":0,"max":0,"n":0,"missing":">30 s"}`, `"overNative":0.17`, `"verdict":"missed: `} {
		if !strings.Contains(string(line), want) {
			t.Errorf("the line lacks %q: %s", want, line)
		}
	}

	if none, err := readSamples(path + ".absent"); err != nil || none != nil {
		t.Errorf("no file: %v, %v", none, err)
	}
	if err := os.WriteFile(path, []byte(lines+"{\"label\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSamples(path); err == nil {
		t.Error("a cut line is accepted")
	}
}

// TestTargets: every target is of a row that is judged, once.
func TestTargets(t *testing.T) {
	seen := map[rowID]bool{}
	for _, target := range targets {
		if seen[target.id] || target.gocryptfs == 0 && target.native == 0 && target.most == 0 {
			t.Errorf("%+v", target)
		}
		seen[target.id] = true
	}
}
