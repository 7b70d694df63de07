// Package powercut is a disk for tests whose power can be cut, as far as a
// program can do that: an ext4 in a file that is shut down without flushing its
// journal, and then has what was flushed before, and of the rest what happened
// to be written. Nothing here waits for ever.
package powercut

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is an ext4. It is for one goroutine.
type Disk struct {
	image, dir string
	mounted    bool
}

// New makes a disk of so many bytes, which take room only as they are written,
// below a folder, and mounts it. It needs root and loop devices.
func New(folder string, size int64) (*Disk, error) {
	d := &Disk{image: filepath.Join(folder, "image"), dir: filepath.Join(folder, "disk")}
	err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, size), os.Mkdir(d.dir, 0o700))
	if err == nil {
		err = run("mkfs.ext4", "-q", "-F", d.image)
	}
	if err == nil {
		err = d.Mount()
	}
	return d, err
}

// run runs a program that must not hang.
func run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// Dir is where the disk is mounted.
func (d *Disk) Dir() string { return d.dir }

// Mount mounts the disk again after Unmount: ext4 replays its journal. By
// itself it commits nothing within the time of a test.
func (d *Disk) Mount() error {
	err := run("mount", "-o", "loop,noatime,commit=300", d.image, d.dir)
	d.mounted = err == nil
	return err
}

// Unmount gives up after 20 seconds and leaves the mount to the kernel, which
// ends it when nobody uses it any more. That is an error; being unmounted is
// none.
func (d *Disk) Unmount() error {
	if !d.mounted {
		return nil
	}
	d.mounted = false
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = unix.Unmount(d.dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("unmount %s: %w", d.dir, err), unix.Unmount(d.dir, unix.MNT_DETACH))
	}
	return nil
}

// Cut makes the file system refuse everything from now on with EIO. What its
// journal has not committed is lost.
func (d *Disk) Cut() error {
	const (
		fsIocShutdown = 0x8004587d
		noLogFlush    = 2
	)
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), fsIocShutdown, noLogFlush); err != nil {
		return fmt.Errorf("shut down the ext4: %w", err)
	}
	return nil
}
