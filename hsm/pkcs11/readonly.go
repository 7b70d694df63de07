package pkcs11

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SoftHSM 2 rewrites its token's file at each login, by truncating and then
// writing it. A process killed in between leaves an empty file: the token and
// all its keys are gone. The agent is killed when it hangs and logs in at every
// check, so a SoftHSM token is logged in to from a thread that cannot open
// files for writing; SoftHSM does not mind. What is lost is the token's own
// note of a wrong PIN, which pinGuard keeps instead.

// onThread runs f on a thread that ends with it, so that it may be restricted.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		done <- f()
	}()
	return <-done
}

// forbidWriting makes the calling thread unable to open files for writing but
// those below dir ("" = none). A kernel without Landlock cannot, and nothing is
// protected there.
func forbidWriting(dir string) error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_WRITE_FILE}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	defer unix.Close(int(fd))
	if dir != "" {
		if err := permitWriting(int(fd), dir); err != nil {
			return err
		}
	}
	// Needed for a thread without privileges; the agent has it anyway.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

func permitWriting(ruleset int, dir string) error {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // then nothing can be written there in any case
	}
	if err != nil {
		return fmt.Errorf("landlock: %s: %w", dir, err)
	}
	defer unix.Close(d)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_WRITE_FILE, Parent_fd: int32(d)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %s: %w", dir, errno)
	}
	return nil
}
