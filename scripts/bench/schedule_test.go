package main

import (
	"slices"
	"testing"
	"time"
)

func names(rs []rival) (n []string) {
	for _, r := range rs {
		n = append(n, r.name)
	}
	return n
}

// TestOrder_Alternates: nobody always follows the same one, and everybody has as
// many turns as was asked for.
func TestOrder_Alternates(t *testing.T) {
	for _, c := range []struct{ reps, sides int }{{1, 0}, {1, 1}, {3, 1}, {3, 2}, {3, 3}, {5, 2}} {
		turns, before := map[string]int{}, map[string][]string{}
		for rep := range c.reps {
			taking := names(order(rivals, rep, c.reps, c.sides))
			for i, n := range taking {
				turns[n]++
				if i > 0 {
					before[n] = append(before[n], taking[i-1])
				}
			}
		}
		for _, r := range rivals {
			want := c.sides
			if r.judged {
				want = c.reps
			}
			if turns[r.name] != want {
				t.Errorf("%+v: %s has %d turns, want %d", c, r.name, turns[r.name], want)
			}
		}
		if p := before[cmkfs]; c.reps == 3 && len(slices.Compact(slices.Sorted(slices.Values(p)))) < 2 {
			t.Errorf("%+v: before cmkfs always comes one of %q", c, p)
		}
	}
	if first := names(order(rivals, 0, 3, 1)); slices.Contains(first, "cryfs") {
		t.Error("cryfs takes part before it is known how long cmkfs takes")
	}
}

// TestRepeats: compiling happens once, when everybody takes part.
func TestRepeats(t *testing.T) {
	for reps := 1; reps <= 4; reps++ {
		n := 0
		for rep := range reps {
			if repeats("K", rep, reps, 1) {
				n++
				if len(order(rivals, rep, reps, 1)) != len(rivals) {
					t.Errorf("%d repetitions: not everybody compiles", reps)
				}
			}
			if !repeats("AB", rep, reps, 1) {
				t.Errorf("AB is left out of repetition %d", rep)
			}
		}
		if n != 1 {
			t.Errorf("%d repetitions: compiled %d times", reps, n)
		}
	}
}

// TestTakes: PostgreSQL is not run where only root gets in.
func TestTakes(t *testing.T) {
	var out []string
	for _, r := range rivals {
		if !takes(r, "L") {
			t.Errorf("%s has no turn of L", r.name)
		}
		if !takes(r, "M") {
			out = append(out, r.name)
		}
	}
	if !slices.Equal(out, []string{ceiling, rootOnly}) {
		t.Errorf("%q have no turn of M", out)
	}
}

func TestLimit(t *testing.T) {
	side, judged := rival{name: "cryfs"}, rival{name: cmkfs, judged: true}
	for _, c := range []struct {
		r          rival
		ours, want time.Duration
	}{
		{judged, time.Second, hangLimit},
		{side, 0, 2 * time.Minute},
		{side, time.Second, leastLimit},
		{side, 10 * time.Second, 50 * time.Second},
		{side, time.Minute, 2 * time.Minute},
	} {
		if got := limit(c.r, c.ours, 2*time.Minute); got != c.want {
			t.Errorf("%s after %s: %s, want %s", c.r.name, c.ours, got, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse(nil)
	if err != nil || !o.complete || len(o.rivals) != len(rivals) || len(o.groups) != 11 {
		t.Errorf("no flags: %+v, %v", o, err)
	}
	o, err = parse([]string{"-quick"})
	if err != nil || o.complete || o.reps != 1 || !slices.Equal(names(o.rivals), []string{native, gocryptfs, cmkfs}) || slices.Contains(o.groups, "K") {
		t.Errorf("-quick: %+v, %v", o, err)
	}
	o, err = parse([]string{"-w", "F GH", "-with", "none"})
	if err != nil || o.complete || !slices.Equal(o.groups, []string{"F", "GH"}) || !slices.Equal(names(o.rivals), []string{cmkfs}) {
		t.Errorf("-w -with: %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-with", "zfs"}, {"F"}, {"-r", "0"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
