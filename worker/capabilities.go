package worker

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// capSet is a set of capabilities, a bit each.
type capSet uint64

const capIPCLock capSet = 1 << unix.CAP_IPC_LOCK

// capabilities returns those that the calling thread may use.
func capabilities() (capSet, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return 0, fmt.Errorf("capabilities: %w", err)
	}
	return capSet(have[0].Effective) | capSet(have[1].Effective)<<32, nil
}

// secureBits are, of <linux/securebits.h>: NOROOT, NO_SETUID_FIXUP and
// NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS.
const secureBits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7

// dropCapabilities empties every capability set, the bounding set included, but
// for the kept ones, and stops user id 0 from regaining the others by exec. The
// volume's directory belongs to our user id, and all ownership inside the volume
// is its metadata.
func dropCapabilities(keep capSet) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if keep != 0 {
		// Only ambient ones survive the exec of a program that has none of its
		// own, and only what is in the bounding set can become one.
		if err := raiseAmbient(keep, &header); err != nil {
			return err
		}
	}
	for c := uintptr(0); c < 64; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the kernel's last capability
		}
		if err != nil && !errors.Is(err, unix.EPERM) { // EPERM: not privileged in the first place
			return fmt.Errorf("capability bounding set: %w", err)
		}
	}
	var kept [2]unix.CapUserData
	for i := range kept {
		set := uint32(keep >> (32 * i))
		kept[i] = unix.CapUserData{Effective: set, Permitted: set, Inheritable: set}
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secureBits, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("secure bits: %w", err)
	}
	if err := unix.Capset(&header, &kept[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// raiseAmbient makes capabilities ambient that the thread has.
func raiseAmbient(keep capSet, header *unix.CapUserHeader) error {
	var have [2]unix.CapUserData
	if err := unix.Capget(header, &have[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	for i := range have {
		have[i].Inheritable = uint32(keep >> (32 * i))
	}
	if err := unix.Capset(header, &have[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	for c := uintptr(0); c < 64; c++ {
		if keep&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("ambient capability: %w", err)
		}
	}
	return nil
}

// checkConfined is stage 2's proof that stage 1 has run: the flag that says so
// is only an argument.
func checkConfined(keep capSet) error {
	if v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || v != 1 {
		return errors.New("worker: no_new_privs is not set")
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("worker: capabilities: %w", err)
	}
	for i, d := range have {
		if (d.Effective|d.Permitted|d.Inheritable)&^uint32(keep>>(32*i)) != 0 {
			return errors.New("worker: capabilities are left")
		}
	}
	return nil
}
