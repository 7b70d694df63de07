package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// sample is a line of fsbench's results: one metric of one workload on one file
// system.
type sample struct {
	Label    string    `json:"label"` // the file system
	Workload string    `json:"workload"`
	Metric   string    `json:"metric"`
	Unit     string    `json:"unit"`
	Samples  []float64 `json:"samples"`
}

// readSamples reads what one fsbench wrote. No file is no samples: it was ended
// before the first.
func readSamples(path string) ([]sample, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []sample
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var s sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return all, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, s)
	}
	return all, lines.Err()
}

// rowID names a row of the table.
type rowID struct{ workload, metric string }

// results collects the samples of all turns.
type results struct {
	units  map[rowID]string
	values map[rowID]map[string][]float64 // by file system
	failed map[string]map[string]string   // by workload letter and file system: why samples are missing
	noise  float64                        // cores that strangers used at most
}

func newResults() *results {
	return &results{
		units: map[rowID]string{}, values: map[rowID]map[string][]float64{}, failed: map[string]map[string]string{},
	}
}

// add takes in a turn. failed is empty if it came to its end.
func (r *results) add(name, group string, samples []sample, failed string) {
	for _, s := range samples {
		switch s.Metric {
		case "foreign_cpu":
			r.noise = max(r.noise, slices.Max(append(s.Samples, 0)))
			continue
		case "client_cpu", "machine_cpu":
			continue // for those who look at the samples
		}
		id := rowID{s.Workload, s.Metric}
		if r.values[id] == nil {
			r.values[id] = map[string][]float64{}
		}
		r.units[id] = s.Unit
		r.values[id][name] = append(r.values[id][name], s.Samples...)
	}
	if failed == "" {
		return
	}
	for _, workload := range strings.Split(group, "") {
		if r.failed[workload] == nil {
			r.failed[workload] = map[string]string{}
		}
		r.failed[workload][name] = failed
	}
}

// figure is what is known of one metric on one file system.
type figure struct {
	Median  float64 `json:"median"`
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	N       int     `json:"n"`
	Missing string  `json:"missing,omitempty"` // why there is none: "failed", or ">30 s"
}

// summarize makes a figure of samples.
func summarize(samples []float64) figure {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return figure{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1], N: n}
}

// figures are those of a row.
func (r *results) figures(id rowID) map[string]figure {
	all := map[string]figure{}
	for name, why := range r.failed[id.workload] {
		all[name] = figure{Missing: why}
	}
	for name, samples := range r.values[id] {
		all[name] = summarize(samples)
	}
	return all
}

// appendLines appends values to a file, a JSON object on each line.
func appendLines[T any](path string, values []T) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	lines := json.NewEncoder(f)
	lines.SetEscapeHTML(false)
	for _, v := range values {
		err = errors.Join(err, lines.Encode(v))
	}
	return errors.Join(err, f.Close())
}
