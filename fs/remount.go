package fs

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// FixedError reports an option that a remount cannot change: kernel and worker
// agree on it when the connection begins.
type FixedError struct{ Option string }

func (e *FixedError) Error() string {
	return fmt.Sprintf("%s cannot be changed by a remount: unmount the volume and mount it anew", e.Option)
}

// Remount changes the flags of a mount to those of cfg: read-only, nosuid and
// the like, access times. What else differs is a *FixedError. To become
// read-only no file may be open for writing (EBUSY). Dirty pages are written back,
// so somebody must be answering. When ctx ends first the remount goes on by
// itself. Server.Remounted is for the worker to know.
func (d *Device) Remount(ctx context.Context, cfg MountConfig) error {
	if err := d.Mount.remountable(cfg); err != nil {
		return err
	}
	flags, err := cfg.flags()
	if err != nil {
		return fmt.Errorf("remount %s: %w", cfg.Mountpoint, err)
	}
	done := make(chan error, 1)
	go func() {
		done <- unix.Mount(cfg.Source, cfg.Mountpoint, fsType, flags|unix.MS_REMOUNT, "")
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("remount %s: %w", cfg.Mountpoint, err)
	}
	return nil
}

// remountable reports whether a remount can lead from c to cfg.
func (c MountConfig) remountable(cfg MountConfig) error {
	switch {
	case c.Writeback != cfg.Writeback:
		return &FixedError{"writeback"}
	case c.AllowOther != cfg.AllowOther:
		return &FixedError{"allow_other"}
	case c.MaxBackground != cfg.MaxBackground:
		return &FixedError{"max_background"}
	}
	return nil
}

// Remounted tells the server how its volume is mounted now. It may be called at
// any time.
func (s *Server) Remounted(cfg MountConfig) {
	s.cfg.Volume.SetAccessTimes(cfg.accessTimes())
}

// With returns the configuration with a flag set, and With's opposites cleared.
func (c MountConfig) With(flag string) MountConfig {
	c.Options = append(c.Without(append(exclusive[flag], flag)...).Options, flag)
	return c
}

// Without returns the configuration with flags cleared.
func (c MountConfig) Without(flags ...string) MountConfig {
	c.Options = slices.DeleteFunc(slices.Clone(c.Options), func(o string) bool { return slices.Contains(flags, o) })
	return c
}

// exclusive has the flags that end others.
var exclusive = map[string][]string{
	"noatime":     {"relatime", "strictatime"},
	"relatime":    {"noatime", "strictatime"},
	"strictatime": {"noatime", "relatime"},
}
