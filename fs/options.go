package fs

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// MountConfig says how a volume is mounted. Supervisor and workers must use the
// same one: each answers the kernel's INIT request from it.
type MountConfig struct {
	Mountpoint string // absolute, an existing directory
	Source     string // shown as the device, "account/volume"
	// Writeback lets the kernel collect writes in its page cache. Small
	// writes get cheaper, creating and closing files dearer, and a write(2)
	// is no longer safe from a crash of the host's applications and workers
	// alike until it was written back.
	Writeback bool
	ReadOnly  bool
	// AllowOther lets in users other than root, and the kernel checks everybody's
	// permissions. Without it no others get in, and nothing is checked: root passes
	// all checks. That saves a message after each change of a directory, since for
	// the check the kernel asks for its attributes anew.
	AllowOther bool
	// MaxBackground is the number of requests the kernel keeps going for
	// read-ahead and write-back; 0 = 64.
	MaxBackground int
	// Options are mount flags by name: nosuid, nodev, noexec, noatime,
	// strictatime, nodiratime, relatime (which is the default), sync, dirsync.
	Options []string
}

const (
	defaultMaxBackground = 64
	readAheadKiB         = 4096
)

// mountFlags are the names MountConfig.Options may have.
var mountFlags = map[string]uintptr{
	"nosuid":      unix.MS_NOSUID,
	"nodev":       unix.MS_NODEV,
	"noexec":      unix.MS_NOEXEC,
	"noatime":     unix.MS_NOATIME,
	"strictatime": unix.MS_STRICTATIME,
	"nodiratime":  unix.MS_NODIRATIME,
	"relatime":    unix.MS_RELATIME,
	"sync":        unix.MS_SYNCHRONOUS,
	"dirsync":     unix.MS_DIRSYNC,
}

// flags translates the options.
func (c MountConfig) flags() (uintptr, error) {
	var flags uintptr
	if c.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	for _, o := range c.Options {
		f, ok := mountFlags[o]
		if !ok {
			return 0, fmt.Errorf("unknown mount option %q", o)
		}
		flags |= f
	}
	if flags&(unix.MS_NOATIME|unix.MS_STRICTATIME) == 0 {
		flags |= unix.MS_RELATIME // said aloud, since a remount would keep what was
	}
	return flags, nil
}

// accessTimes is the volume's part of the options: the kernel leaves access
// times to us, whatever the flags of the mount are.
func (c MountConfig) accessTimes() meta.AccessTimes {
	rule := meta.AccessRelative
	switch {
	case c.ReadOnly || slices.Contains(c.Options, "noatime"):
		rule = meta.AccessNever
	case slices.Contains(c.Options, "strictatime"):
		rule = meta.AccessAlways
	}
	p := meta.AccessTimes{Files: rule, Dirs: rule}
	if slices.Contains(c.Options, "nodiratime") {
		p.Dirs = meta.AccessNever
	}
	return p
}

// data is the option string of mount(2) for a descriptor of /dev/fuse.
func (c MountConfig) data(fd int) string {
	opts := []string{
		fmt.Sprintf("fd=%d", fd),
		fmt.Sprintf("rootmode=%o", unix.S_IFDIR),
		"user_id=0", "group_id=0",
		fmt.Sprintf("max_read=%d", maxData),
	}
	if c.AllowOther {
		opts = append(opts, "default_permissions", "allow_other")
	}
	return strings.Join(opts, ",")
}

// protocolOptions are the options by which INIT is answered.
func (c MountConfig) protocolOptions(log *slog.Logger) *fuse.MountOptions {
	extra := uint64(fuse.CAP_HAS_RESEND | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT |
		fuse.CAP_DONT_MASK | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT)
	// With ASYNC_DIO the kernel would drop cached pages before a direct write of
	// the AIO interface, but not after it: who reads meanwhile would leave old ones.
	disabled := uint64(fuse.CAP_PASSTHROUGH | fuse.CAP_ALLOW_IDMAP | fuse.CAP_ASYNC_DIO)
	if c.Writeback {
		extra |= fuse.CAP_WRITEBACK_CACHE
	}
	background := c.MaxBackground
	if background <= 0 {
		background = defaultMaxBackground
	}
	return &fuse.MountOptions{
		Name:          "cmkfs",
		FsName:        c.Source,
		MaxWrite:      maxData,
		MaxBackground: background,
		EnableAcl:     c.AllowOther, // which has the kernel check permissions in any case
		// The kernel must not drop its pages because times changed: they
		// change by what it writes itself.
		ExplicitDataCacheControl: true,
		DisableSplice:            true,
		ExtraCapabilities:        extra,
		DisabledCapabilities:     disabled,
		Logger:                   slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// A bug ends the worker; the next one takes its requests over.
		PanicHandler: func(v any) fuse.Status { panic(v) },
	}
}

// resendOffered reports whether the kernel that sent INIT can send the requests
// of a dead worker again (Linux 6.9).
func resendOffered(init []byte) bool {
	m := message(init)
	// flags at 12, flags2 at 16 of the body; flags2 counts if INIT_EXT is set.
	return m.u32(12)&fuse.CAP_INIT_EXT != 0 && uint64(m.u32(16))<<32&fuse.CAP_HAS_RESEND != 0
}
