package supervisor_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Of <linux/fs.h>.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// hangingDisk is a file system of the test's own. While it is frozen, whoever
// writes to it waits and cannot be killed, as on a disk that does not answer.
type hangingDisk struct {
	t    *testing.T
	dir  string
	root *os.File  // of the file system
	free io.Closer // closed: the thawing process thaws; nil = not frozen
}

// newHangingDisk mounts one on a directory.
func newHangingDisk(t *testing.T, dir string) *hangingDisk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 512<<20); err != nil {
		t.Fatal(err)
	}
	runTool(t, "mkfs.ext4", "-q", "-F", image)
	runTool(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { unmountLeft(dir) })
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &hangingDisk{t: t, dir: dir, root: root}
	t.Cleanup(func() {
		d.thaw()
		root.Close()
	})
	return d
}

// runTool runs a program of the system and returns what it prints.
func runTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// thawAfter is the longest time for which a disk hangs.
const thawAfter = 90 * time.Second

// hang makes writes to the disk wait. Another process ends that, too: when this
// one is gone, or after a time.
func (d *hangingDisk) hang() {
	d.t.Helper()
	free := cleaner(d.t, "thaw", d.dir)
	if err := unix.IoctlSetInt(int(d.root.Fd()), fiFreeze, 0); err != nil {
		d.t.Fatalf("freeze: %v", err)
	}
	d.free = free
}

// thaw lets the writes go on.
func (d *hangingDisk) thaw() {
	if d.free == nil {
		return
	}
	if err := unix.IoctlSetInt(int(d.root.Fd()), fiThaw, 0); err != nil {
		d.t.Errorf("thaw: %v", err)
	}
	d.free.Close()
	d.free = nil
}

// thawLater is the other process: it thaws the file system of a directory.
func thawLater(dir string) {
	root, err := os.Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	untilGone(thawAfter)
	_ = unix.IoctlSetInt(int(root.Fd()), fiThaw, 0) // fails if it was thawed already
}

// untilGone waits until whoever has the other end of the standard input closes it
// or is gone, and no longer than a time.
func untilGone(limit time.Duration) {
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(limit):
	}
}

// cleaner starts a process of this program that undoes something when this one
// closes its input or is gone.
func cleaner(t *testing.T, args ...string) io.Closer {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	return in
}
