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
	// Permissions are checked by the kernel from modes, owners and ACLs, so
	// that other users may be let in, as on any disk.
	cfg := fs.MountConfig{AllowOther: true}
	for _, list := range options {
		for o := range strings.SplitSeq(list, ",") {
			if err := parseOption(&cfg, strings.TrimSpace(o)); err != nil {
				return fs.MountConfig{}, err
			}
		}
	}
	return cfg, nil
}

func parseOption(cfg *fs.MountConfig, o string) error {
	name, value, _ := strings.Cut(o, "=")
	switch name {
	case "", "defaults", "rw", "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail",
		"suid", "dev", "exec", "async", "atime", "diratime", "norelatime", "strictatime", "lazytime",
		"allow_other", "default_permissions", "nowriteback":
		if name == "rw" {
			cfg.ReadOnly = false
		}
	case "ro":
		cfg.ReadOnly = true
	case "writeback":
		cfg.Writeback = true
	case "noallow_other":
		cfg.AllowOther = false
	case "max_background":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > 65535 {
			return api.Errorf(api.CodeInvalid, fmt.Sprintf("mount option max_background=%s: a number from 1 to 65535 is needed", value))
		}
		cfg.MaxBackground = n
	case "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "sync", "dirsync":
		cfg.Options = append(cfg.Options, name)
	default:
		if strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "comment") {
			return nil
		}
		return api.Errorf(api.CodeInvalid, fmt.Sprintf("unknown mount option %q", o))
	}
	return nil
}
