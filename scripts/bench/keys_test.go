package main

import (
	"strings"
	"testing"
)

// TestCompareKeys: repetitions are compared one by one, so that what slows one of
// them down slows both sides; costs of the common daemon are left out.
func TestCompareKeys(t *testing.T) {
	speed, seconds, cost := rowID{"A", "seq_write"}, rowID{"H", "insert_wal"}, rowID{"A", "daemon_cpu"}
	values := map[rowID]map[string][]float64{
		speed:   {platform: {100, 50, 200}, control: {100, 50, 200}, token: {90, 50, 220}, vault: {100, 100}},
		seconds: {platform: {1, 1, 1}, control: {1, 1, 1}, token: {2, 2, 2}, vault: {1, 1, 1}},
		cost:    {platform: {1}, control: {1}, token: {1}, vault: {1}},
	}
	got := compareKeys(values, map[rowID]string{speed: "MB/s", seconds: "s", cost: "s"})
	for _, want := range []string{"A seq_write", "1.00 [0.90-1.10]", "1.50 [1.00-2.00]", "H insert_wal", "0.50 [0.50-0.50]", "median of all"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "daemon_cpu") {
		t.Errorf("the daemon's cost is shown:\n%s", got)
	}
	if got := compareKeys(nil, nil); !strings.Contains(got, "nothing") {
		t.Errorf("of nothing: %q", got)
	}
}
