package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// begin makes and mounts a file system. It returns why that did not succeed.
func (b *bench) begin(r rival, t *turn) string {
	daemon, err := r.start(b, t)
	t.daemon = daemon
	if err == nil && daemon != nil {
		err = b.Await(startLimit, r.name+" is mounted", func() (bool, error) {
			select {
			case <-daemon.Done():
				return true, nil
			default:
				return mounted(t.mount), nil
			}
		})
		if err == nil && !mounted(t.mount) {
			err = errors.New("its daemon ended")
		}
	}
	if err == nil && b.checks(t) { // other users may come to it
		err = errors.Join(os.Chmod(b.Path(""), 0o711), os.Chmod(t.dir, 0o711), os.Chmod(t.mount, 0o711))
	}
	if err != nil {
		b.Say("%s cannot be mounted: %v", r.name, err)
		return "failed"
	}
	return ""
}

// end unmounts a file system and ends its daemon. Nothing is left in the next
// one's way, whatever it takes.
func (b *bench) end(r rival, t *turn) error {
	if t.daemon == nil {
		return nil
	}
	if r.name == cmkfs {
		b.Try(time.Minute, b.Cmkfsd, "--state-dir", b.State, "volume", "unmount", "bench")
	}
	for range 20 {
		if !mounted(t.mount) {
			break
		}
		// Some hold their folder for a moment after the last file was closed.
		if err := quick("umount", t.mount); err != nil {
			time.Sleep(500 * time.Millisecond)
		}
	}
	// Most end by themselves now; one that began to write back may take a while.
	select {
	case <-t.daemon.Done():
	case <-time.After(2 * time.Second):
	}
	t.daemon.Stop()
	if !mounted(t.mount) {
		return nil
	}
	b.KillAll()
	syscall.Unmount(t.mount, syscall.MNT_DETACH)
	if mounted(t.mount) {
		return fmt.Errorf("%s cannot be unmounted", r.name)
	}
	return nil
}

// quick runs a command that may hang.
func quick(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	return cmd.Run()
}

// mounted reports whether something is mounted on a directory, without touching
// it.
func mounted(dir string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(table), " "+dir+" ")
}
