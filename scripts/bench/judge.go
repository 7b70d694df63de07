package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// row is one line of the table: a metric of a workload.
type row struct {
	Workload string            `json:"workload"`
	Metric   string            `json:"metric"`
	Unit     string            `json:"unit"`
	Figures  map[string]figure `json:"figures"` // by file system
	// cmkfs's gain over the other: above 1 it is better, whether more or less
	// of the unit is good; 0 = not both measured.
	OverGocryptfs float64 `json:"overGocryptfs,omitempty"`
	RootOnlyOver  float64 `json:"rootOnlyOverGocryptfs,omitempty"` // the gain when mounted for root only
	OverNative    float64 `json:"overNative,omitempty"`
	OfCeiling     float64 `json:"ofCeiling,omitempty"` // share of it reached
	Verdict       string  `json:"verdict,omitempty"`   // "met", "missed: …" or ""
}

// gain is mine over other.
func gain(unit string, mine, other figure) float64 {
	if mine.N == 0 || other.N == 0 || mine.Median == 0 || other.Median == 0 {
		return 0
	}
	switch unit {
	case "s", "us", "MiB": // less is better
		return other.Median / mine.Median
	}
	return mine.Median / other.Median
}

// judge makes the table's rows.
func (r *results) judge() []row {
	ids := slices.SortedFunc(maps.Keys(r.values), func(a, b rowID) int {
		return strings.Compare(a.workload+" "+a.metric, b.workload+" "+b.metric)
	})
	var rows []row
	for _, id := range ids {
		f := r.figures(id)
		w := row{
			Workload: id.workload, Metric: id.metric, Unit: r.units[id], Figures: f,
			OverGocryptfs: gain(r.units[id], f[cmkfs], f[gocryptfs]),
			RootOnlyOver:  gain(r.units[id], f[rootOnly], f[gocryptfs]),
			OverNative:    gain(r.units[id], f[cmkfs], f[native]),
		}
		if !id.unjudged() {
			w.OfCeiling = gain(r.units[id], f[cmkfs], f[ceiling])
		}
		w.Verdict = w.verdict(id)
		rows = append(rows, w)
	}
	return rows
}

// verdict says whether a row's target is met, and in which points it is not.
func (w row) verdict(id rowID) string {
	mine := w.Figures[cmkfs]
	at := slices.IndexFunc(targets, func(t target) bool { return t.id == id })
	if mine.N == 0 {
		if at >= 0 && mine.Missing != "" {
			return "missed: cmkfs " + mine.Missing
		}
		return ""
	}
	var missed []string
	compared := false
	below := func(have, want float64, whom string) {
		if have == 0 || want == 0 {
			return
		}
		compared = true
		if have < want {
			missed = append(missed, fmt.Sprintf("%.2f of %.2f x %s", have, want, whom))
		}
	}
	if at >= 0 {
		t := targets[at]
		below(w.OverGocryptfs, t.gocryptfs, gocryptfs)
		below(w.OverNative, t.native, native)
		if t.most > 0 {
			compared = true
			if mine.Median > t.most {
				missed = append(missed, fmt.Sprintf("%.0f of at most %.0f %s", mine.Median, t.most, w.Unit))
			}
		}
	}
	if !id.unjudged() {
		for _, peer := range []string{gocryptfs, "securefs", "cryfs", "encfs"} {
			if peer == "cryfs" && id.durable() {
				continue // it answers fsync without writing anything
			}
			if g := gain(w.Unit, mine, w.Figures[peer]); g > 0 {
				compared = true
				if g < 1 {
					missed = append(missed, fmt.Sprintf("slower than %s (%.2f)", peer, g))
				}
			}
		}
	}
	switch {
	case len(missed) > 0:
		return "missed: " + strings.Join(missed, ", ")
	case compared:
		return "met"
	}
	return ""
}
