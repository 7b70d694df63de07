package main

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

// marker is the environment variable every process below the tests inherits.
const marker = "CMKFS_TEST_RUN="

// sandbox is the place the tests work in: a temporary directory of their own
// and a mark on every process, so that what they leave can be found, reported
// and taken away without touching anybody else's.
type sandbox struct {
	dir string
}

func newSandbox() (*sandbox, error) {
	// Short, because tests make Unix sockets below it (108 bytes at most).
	dir, err := os.MkdirTemp("", "ct")
	if err != nil {
		return nil, fmt.Errorf("making the tests' directory: %w", err)
	}
	return &sandbox{dir: dir}, nil
}

func (b *sandbox) env() []string {
	return append(os.Environ(), "TMPDIR="+b.dir, marker+b.dir)
}

// clean takes away the sandbox and returns what the tests should have taken
// away themselves.
func (b *sandbox) clean() (leftovers []string) {
	// A daemon may need a moment to end after the test that stopped it.
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

// processes finds every process that carries the mark. The go command starts
// nothing that outlives it, so whatever is found was a test's.
func (b *sandbox) processes() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		env, err := os.ReadFile(path)
		if err != nil {
			continue // it ended, or is not ours to read
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

// mounts lists the mount points below the sandbox, outer ones first.
func (b *sandbox) mounts() []string {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], b.dir+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

func commandLine(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "ended"
	}
	return strings.TrimSpace(string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
}
