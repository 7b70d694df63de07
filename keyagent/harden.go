package keyagent

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps the agent's memory out of core files, debuggers of its own user,
// and, as far as the limits allow, the swap. Only the last may fail silently.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keyagent: not dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("keyagent: no core files: %w", err)
	}
	lockMemory()
	return nil
}

// lockMemory locks all pages as they are first used. Under a limit it does
// nothing: a later allocation would fail and end the process.
func lockMemory() {
	var l unix.Rlimit
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited) != nil {
		if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil || l.Cur != unix.RLIM_INFINITY {
			return
		}
	}
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}
