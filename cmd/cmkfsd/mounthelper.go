package main

import (
	"slices"
	"strings"
)

// mountHelperName is the name under which mount(8) calls this program for
// "mount -t cmkfs ACCOUNT/VOLUME MOUNTPOINT" and for fstab.
const mountHelperName = "mount.cmkfs"

// isMountHelper reports whether that is a program's name. For the remount of a
// volume that is not in fstab, mount(8) takes the type that the kernel shows.
func isMountHelper(name string) bool {
	return name == mountHelperName || name == "mount.fuse.cmkfs"
}

// forMount are options that mount(8) and systemd keep for themselves.
var forMount = []string{"auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "defaults"}

// mountHelperArgs translates mount(8)'s arguments into those of volume mount:
// SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]. It returns nil
// if nothing is to be done (-f).
func mountHelperArgs(args []string) ([]string, error) {
	var operands, options, global []string
	whenLocked := ""
	fake := false
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-o" || arg == "-t" || arg == "-N":
			i++
			if i == len(args) {
				return nil, &usageError{message: arg + " needs a value"}
			}
			if arg == "-o" {
				options = append(options, strings.Split(args[i], ",")...)
			}
		case strings.HasPrefix(arg, "-"):
			if strings.Trim(arg[1:], "sfnv") != "" {
				return nil, &usageError{message: mountHelperName + " does not know " + arg}
			}
			fake = fake || strings.Contains(arg, "f")
		default:
			operands = append(operands, arg)
		}
	}
	if len(operands) != 2 {
		return nil, &usageError{message: mountHelperName + " needs ACCOUNT/VOLUME and a mount point", hint: "mount -t cmkfs acme/home /srv/home"}
	}
	account, volume, ok := strings.Cut(operands[0], "/")
	if !ok {
		return nil, &usageError{message: "\"" + operands[0] + "\" is not ACCOUNT/VOLUME", hint: "mount -t cmkfs acme/home /srv/home"}
	}
	var rest []string
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		switch {
		case o == "" || slices.Contains(forMount, o) || strings.HasPrefix(o, "x-") || name == "comment":
		case name == "state-dir":
			global = append(global, "--state-dir="+value)
		case name == "when-locked":
			whenLocked = value
		default:
			rest = append(rest, o)
		}
	}
	if fake {
		return nil, nil
	}
	translated := append(global, "--account="+account, "volume", "mount")
	if whenLocked != "" {
		translated = append(translated, "--when-locked="+whenLocked)
	}
	if len(rest) > 0 {
		translated = append(translated, "-o", strings.Join(rest, ","))
	}
	return append(translated, "--", volume, operands[1]), nil
}
