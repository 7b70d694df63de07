// Package sandbox gives a run of tests or of the demo a place of its own, and
// finds and takes away what the run left there: files, mounts and processes.
package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// marker is the environment variable every process of a run inherits.
const marker = "CMKFS_SANDBOX="

// Sandbox is a temporary directory and a mark on every process of the run, so
// that nothing of anybody else's is ever touched.
type Sandbox struct {
	dir string
}

// New makes a sandbox below the system's temporary directory.
func New() (*Sandbox, error) {
	// A short name, because Unix sockets are made below it (108 bytes at most).
	dir, err := os.MkdirTemp("", "ct")
	if err != nil {
		return nil, fmt.Errorf("making a working directory: %w", err)
	}
	// Tests act as other users inside.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	return &Sandbox{dir: dir}, nil
}

// Dir is the sandbox's directory.
func (b *Sandbox) Dir() string { return b.dir }

// Env is this process's environment with the mark, and with temporary files
// put into the sandbox.
func (b *Sandbox) Env() []string {
	return append(os.Environ(), "TMPDIR="+b.dir, marker+b.dir)
}

// Clean takes away the sandbox and returns, in words, the processes and mounts
// that the run should have taken away itself.
func (b *Sandbox) Clean() (leftovers []string) {
	// A daemon may need a moment to end after whoever stopped it went on.
	var pids []int
	for range 20 {
		if pids = b.processes(); len(pids) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, pid := range pids {
		leftovers = append(leftovers, fmt.Sprintf("process %d (%s)", pid, commandLine(pid)))
		syscall.Kill(pid, syscall.SIGKILL)
	}
	mounts := b.mounts()
	for i := len(mounts) - 1; i >= 0; i-- {
		leftovers = append(leftovers, "mount "+mounts[i])
		syscall.Unmount(mounts[i], syscall.MNT_DETACH)
	}
	// Never walk into a mount that could not be detached.
	if len(b.mounts()) == 0 {
		os.RemoveAll(b.dir)
	}
	return leftovers
}

// Kill ends every process of the run but one, also those that wait, unkillably,
// for a file system that nobody serves: its connection is aborted before.
func (b *Sandbox) Kill(except int) {
	for _, dev := range b.connections() {
		abort := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", dev)
		if err := os.WriteFile(abort, []byte("1"), 0); err != nil {
			continue // it has ended by itself
		}
	}
	for _, pid := range b.processes() {
		if pid != except {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// processes finds every process but this one that carries the mark.
func (b *Sandbox) processes() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		env, err := readSoon(path)
		if err != nil {
			continue // it ended, is not ours to read, or hangs
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if string(v) == marker+b.dir {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				if err == nil && pid != os.Getpid() {
					pids = append(pids, pid)
				}
				break
			}
		}
	}
	return pids
}

// readSoon reads a file of another process, if the kernel answers soon: it
// waits for ever on a process that hangs in a page fault.
func readSoon(path string) ([]byte, error) {
	type answer struct {
		content []byte
		err     error
	}
	read := make(chan answer, 1)
	go func() {
		b, err := os.ReadFile(path)
		read <- answer{b, err}
	}()
	select {
	case a := <-read:
		return a.content, a.err
	case <-time.After(time.Second):
		return nil, fmt.Errorf("%s: no answer", path)
	}
}

// mount is a line of /proc/self/mountinfo.
type mount struct {
	point string
	minor int // of its device
	fuse  bool
}

// table lists the mounts below the sandbox, outer ones first.
func (b *Sandbox) table() []mount {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []mount
	for line := range strings.Lines(string(content)) {
		fields, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(fields)
		if len(f) < 5 || !strings.HasPrefix(f[4], b.dir+"/") {
			continue
		}
		_, minor, _ := strings.Cut(f[2], ":")
		n, err := strconv.Atoi(minor)
		found = append(found, mount{point: f[4], minor: n, fuse: err == nil && strings.HasPrefix(after, "fuse")})
	}
	return found
}

// mounts lists the mount points below the sandbox, outer ones first.
func (b *Sandbox) mounts() []string {
	var points []string
	for _, m := range b.table() {
		points = append(points, m.point)
	}
	return points
}

// connections lists the FUSE mounts below the sandbox, as the kernel numbers them.
func (b *Sandbox) connections() []int {
	var minors []int
	for _, m := range b.table() {
		if m.fuse {
			minors = append(minors, m.minor)
		}
	}
	return minors
}

func commandLine(pid int) string {
	b, err := readSoon(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "ended"
	}
	return strings.TrimSpace(string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
}
