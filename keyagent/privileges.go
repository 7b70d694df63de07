package keyagent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// confinedEnv marks the second stage of the agent process. What it promises is
// checked, so setting it by hand gains nothing.
const confinedEnv = "CMKFS_KEY_AGENT_CONFINED"

// kept are the capabilities the agent keeps where it has them: PIN files and
// tokens may belong to another user, and memory is locked. Without the others,
// a hostile library cannot look into the memory of workers or of the
// supervisor, which are not dumpable.
var kept = []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_IPC_LOCK}

// confine gives up privileges on the calling thread and executes the program
// again, so that all its threads are without them; it returns in the second
// stage only, or with an error.
func confine() error {
	if os.Getenv(confinedEnv) != "" {
		return checkConfined()
	}
	runtime.LockOSThread() // for good: exec follows
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keyagent: no_new_privs: %w", err)
	}
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), confinedEnv+"=1"))
	return fmt.Errorf("keyagent: executing the second stage: %w", err)
}

// dropCapabilities takes all but the kept ones out of every set, so that the
// exec, which gives user id 0 what the bounding set has, brings none back.
func dropCapabilities() error {
	var keep [2]uint32
	for _, c := range kept {
		keep[c/32] |= 1 << (c % 32)
	}
	for c := uintptr(0); c < 64; c++ {
		if keep[c/32]&(1<<(c%32)) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the kernel's last capability
		}
		if err != nil && !errors.Is(err, unix.EPERM) { // EPERM: not privileged in the first place
			return fmt.Errorf("keyagent: capability bounding set: %w", err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("keyagent: capabilities: %w", err)
	}
	for i := range have {
		have[i].Permitted &= keep[i]
		have[i].Effective &= keep[i]
		have[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &have[0]); err != nil {
		return fmt.Errorf("keyagent: capabilities: %w", err)
	}
	return nil
}

// checkConfined is the second stage's proof that the first one has run.
func checkConfined() error {
	if v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || v != 1 {
		return errors.New("keyagent: no_new_privs is not set")
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("keyagent: capabilities: %w", err)
	}
	for _, c := range kept {
		have[c/32].Permitted &^= 1 << (c % 32)
	}
	if have[0].Permitted|have[1].Permitted != 0 {
		return errors.New("keyagent: capabilities are left")
	}
	return os.Unsetenv(confinedEnv)
}
