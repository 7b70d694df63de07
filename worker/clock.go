package worker

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Now reads CLOCK_BOOTTIME in nanoseconds: the clock of every deadline that
// crosses a process border. It is the same for all processes, nobody can set
// it, and it goes on while the machine sleeps, so that a lease cannot outlive
// its time by a suspend to RAM.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime: %v", err)) // cannot fail with a valid clock
	}
	return ts.Nano()
}

// In returns the deadline that is d from now.
func In(d time.Duration) int64 { return Now() + int64(d) }

// Until returns the time left before a deadline; it is negative afterwards.
func Until(deadline int64) time.Duration { return time.Duration(deadline - Now()) }
