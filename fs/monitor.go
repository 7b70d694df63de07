package fs

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// monitorSlack is by how much the monitor's timers may be late.
//
// The monitor is a thread of Go's runtime (sysmon). While goroutines wait in system
// calls and others want their processors, it sleeps for 20 µs at a time, which Linux
// makes 70, and up to 14,000 times a second it wakes a processor: on a virtual
// machine, 10 to 15 % of all that a worker uses. Late by this much it does so at
// most 4,000 times, and who needs the processor of a goroutine that waits for the
// disk gets it after half a millisecond or so. With 1 ms it costs still less,
// but reads beside four programs that wait for fsync took twice as long (the 99th
// percentile; docs/performance.md).
const monitorSlack = 250 * time.Microsecond

// SlowMonitor lets the Go runtime's monitor in a process that serves a volume wake
// less often. It takes CAP_SYS_NICE. The caller sees to it that the process is not
// reaped meanwhile.
func SlowMonitor(pid int) error {
	tasks, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("monitor thread: %w", err)
	}
	defer tasks.Close()
	// They come in the order in which they were begun, and the runtime begins the
	// monitor first, before it lets the program's own code run.
	ids, err := tasks.Readdirnames(2)
	if err != nil {
		return fmt.Errorf("monitor thread: %w", err)
	}
	if len(ids) < 2 {
		return fmt.Errorf("monitor thread: process %d has only one thread", pid)
	}
	slack := strconv.FormatInt(monitorSlack.Nanoseconds(), 10)
	if err := os.WriteFile("/proc/"+ids[1]+"/timerslack_ns", []byte(slack), 0); err != nil {
		return fmt.Errorf("monitor thread: %w", err)
	}
	return nil
}
