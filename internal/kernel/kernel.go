// Package kernel says what the Linux that runs can do, where asking for it does
// not tell.
package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// AtLeast reports whether the kernel's version is major.minor or newer; false if
// it does not say.
func AtLeast(major, minor int) bool {
	var u unix.Utsname
	return unix.Uname(&u) == nil && atLeast(unix.ByteSliceToString(u.Release[:]), major, minor)
}

// atLeast is AtLeast for a release as uname(2) has it, such as "6.9.3-amd64".
func atLeast(release string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}
