package account

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// NewClock returns the clock in which leases are counted: the wall clock at
// this moment plus what has passed since then. It goes on while the host
// sleeps, which Go's own measure of time does not, so that a lease cannot
// outlive its time by that; and nobody who sets the wall clock moves it.
func NewClock() func() time.Time {
	start, began := time.Now().Round(0), sinceBoot()
	return func() time.Time { return start.Add(sinceBoot() - began) }
}

func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime: %v", err)) // cannot fail with a valid clock
	}
	return time.Duration(ts.Nano())
}
