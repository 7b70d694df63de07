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
// nothing: a later allocation would fail and end the process. The privilege, where
// the agent has it, stands above the limit.
func lockMemory() {
	var l unix.Rlimit
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited) != nil && !mayLock() {
		if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil || l.Cur != unix.RLIM_INFINITY {
			return
		}
	}
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

// mayLock says whether the process has the privilege to lock memory.
func mayLock() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	return unix.Capget(&header, &have[0]) == nil && have[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}
