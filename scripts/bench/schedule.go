package main

import (
	"slices"
	"strings"
	"time"
)

// order says who takes part in a repetition, 0 being the first, and in which
// order. It alternates, so that nobody always profits from what the one before
// left behind, nor suffers from it. Those that are not judged have their
// repetitions from the second one on, when it is known how long cmkfs takes.
func order(rivals []rival, rep, reps, sides int) []rival {
	first := sidesFrom(reps, sides)
	var taking []rival
	for _, r := range rivals {
		if r.judged || rep >= first && rep < first+sides {
			taking = append(taking, r)
		}
	}
	if len(taking) > 0 {
		shift := rep % len(taking)
		taking = append(taking[shift:], taking[:shift]...)
	}
	if rep%2 == 1 {
		slices.Reverse(taking)
	}
	return taking
}

// sidesFrom is the first repetition in which everybody takes part.
func sidesFrom(reps, sides int) int { return max(0, min(1, reps-sides)) }

// repeats says whether a group has its turns in a repetition: compiling takes so
// long, and varies so little, that once is enough.
func repeats(group string, rep, reps, sides int) bool {
	return rep == sidesFrom(reps, sides) || !strings.Contains(group, "K")
}

// takes says whether a file system has turns of a group. PostgreSQL does not run as
// root: a mount for root alone keeps it out, and the ceiling knows no permissions.
func takes(r rival, group string) bool {
	return !strings.Contains(group, "M") || r.name != rootOnly && r.name != ceiling
}

const (
	// hangLimit ends a turn of those that are judged.
	hangLimit = 10 * time.Minute
	// leastLimit lets the others get over their start.
	leastLimit = 30 * time.Second
	// slower is how many times cmkfs's time the others get.
	slower = 5
)

// limit is how long a turn may take. ours is cmkfs's time for the same group, 0
// if not known yet.
func limit(r rival, ours, most time.Duration) time.Duration {
	switch {
	case r.judged:
		return hangLimit
	case ours == 0:
		return most
	}
	return min(most, max(leastLimit, slower*ours))
}
