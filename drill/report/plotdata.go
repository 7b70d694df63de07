package report

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// maxPoints bounds how many points of a line a page holds. Samples that are
// closer than that are put together.
const maxPoints = 3000

// plotData is what plot.js draws. Times are in seconds since the start of the
// drill, rates per second.
type plotData struct {
	Duration float64 `json:"duration"`

	Time     []float64 `json:"time"`
	Reads    []float64 `json:"reads"`
	Writes   []float64 `json:"writes"`
	Metadata []float64 `json:"metadata"`
	Errors   []float64 `json:"errors"`

	Phases  []Phase `json:"phases"`
	Account []Phase `json:"account"` // states
	Mount   []Phase `json:"mount"`
	Checks  []Check `json:"checks"`
	Marks   []Event `json:"marks"` // faults and restores
}

func newPlotData(r *Report) plotData {
	d := plotData{
		Duration: r.Duration.Seconds(),
		Phases:   some(r.Phases),
		Account:  r.runs(accountState),
		Mount:    r.runs(mountState),
		Checks:   some(r.Checks),
		Marks:    []Event{},
		Time:     []float64{}, Reads: []float64{}, Writes: []float64{}, Metadata: []float64{}, Errors: []float64{},
	}
	for _, e := range r.Timeline {
		if e.Kind != "" {
			d.Marks = append(d.Marks, e)
		}
	}
	samples := r.inOrder()
	apart := Offset(0)
	if n := len(samples); n > maxPoints {
		apart = samples[n-1].At / maxPoints
	}
	var from Offset
	var sum Sample
	for i, s := range samples {
		sum.Reads += s.Reads
		sum.Writes += s.Writes
		sum.Metadata += s.Metadata
		sum.Errors += s.Errors
		took := s.At - from
		if took <= 0 || took < apart && i+1 < len(samples) {
			continue
		}
		rate := func(n int64) float64 { return math.Round(float64(n)/took.Seconds()*10) / 10 }
		d.Time = append(d.Time, s.At.Seconds())
		d.Reads = append(d.Reads, rate(sum.Reads))
		d.Writes = append(d.Writes, rate(sum.Writes))
		d.Metadata = append(d.Metadata, rate(sum.Metadata))
		d.Errors = append(d.Errors, rate(sum.Errors))
		from, sum = s.At, Sample{}
	}
	return d
}

// inOrder returns the samples by time. Samples before the start are left out.
func (r *Report) inOrder() []Sample {
	samples := slices.Clone(r.Samples)
	samples = slices.DeleteFunc(samples, func(s Sample) bool { return s.At < 0 })
	slices.SortStableFunc(samples, func(a, b Sample) int { return cmp.Compare(a.At, b.At) })
	return samples
}

func accountState(s Sample) string { return s.State }
func mountState(s Sample) string   { return s.Mount }

// runs puts equal states that follow each other together.
func (r *Report) runs(state func(Sample) string) []Phase {
	all := []Phase{}
	var from Offset
	for _, s := range r.inOrder() {
		name := state(s)
		if n := len(all); n > 0 && all[n-1].Name == name && all[n-1].To == from {
			all[n-1].To = s.At
		} else if name != "" {
			all = append(all, Phase{Name: name, From: from, To: s.At})
		}
		from = s.At
	}
	return all
}

// list joins what may be nothing.
func list(parts []string) string { return dash(strings.Join(parts, ", ")) }
