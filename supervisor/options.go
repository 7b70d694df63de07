package supervisor

import (
	"fmt"
	"strconv"
	"strings"

	"cmkfs/fs"
	"cmkfs/supervisor/api"
)

// parseOptions turns mount options, as they follow -o and as fstab lists them,
// into a mount's configuration. Options that are for mount(8), systemd and the
// boot process are accepted and mean nothing here.
func parseOptions(options []string) (fs.MountConfig, error) {
	// Other users are let in, as on any disk: the kernel checks their permissions
	// from modes, owners and ACLs.
	return changeOptions(fs.MountConfig{AllowOther: true}, options)
}

// isRemount reports whether remount is among mount options.
func isRemount(options []string) bool {
	for _, list := range options {
		for o := range strings.SplitSeq(list, ",") {
			if strings.TrimSpace(o) == "remount" {
				return true
			}
		}
	}
	return false
}

// changeOptions changes a configuration by mount options, in their order.
func changeOptions(cfg fs.MountConfig, options []string) (fs.MountConfig, error) {
	for _, list := range options {
		for o := range strings.SplitSeq(list, ",") {
			if err := parseOption(&cfg, strings.TrimSpace(o)); err != nil {
				return fs.MountConfig{}, err
			}
		}
	}
	return cfg, nil
}

// negations are the options that end another.
var negations = map[string]string{
	"suid": "nosuid", "dev": "nodev", "exec": "noexec", "atime": "noatime", "diratime": "nodiratime",
	"norelatime": "relatime", "nostrictatime": "strictatime", "async": "sync",
}

func parseOption(cfg *fs.MountConfig, o string) error {
	name, value, _ := strings.Cut(o, "=")
	switch name {
	case "", "defaults", "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail", "default_permissions",
		// Access times are always kept as lazytime keeps them.
		"lazytime", "nolazytime",
		// How mount(8) repeats what /proc/self/mountinfo says, for a remount.
		"remount", "user_id", "group_id", "rootmode", "max_read":
	case "rw":
		cfg.ReadOnly = false
	case "ro":
		cfg.ReadOnly = true
	case "writeback":
		cfg.Writeback = true
	case "nowriteback":
		cfg.Writeback = false
	case "allow_other":
		cfg.AllowOther = true
	case "noallow_other":
		cfg.AllowOther = false
	case "max_background":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > 65535 {
			return api.Errorf(api.CodeInvalid, fmt.Sprintf("mount option max_background=%s: a number from 1 to 65535 is needed", value))
		}
		cfg.MaxBackground = n
	case "suid", "dev", "exec", "atime", "diratime", "norelatime", "nostrictatime", "async":
		*cfg = cfg.Without(negations[name])
	case "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "sync", "dirsync":
		*cfg = cfg.With(name)
	default:
		if strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "comment") {
			return nil
		}
		return api.Errorf(api.CodeInvalid, fmt.Sprintf("unknown mount option %q", o))
	}
	return nil
}
