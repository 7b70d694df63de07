package supervisor_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor/api"
)

// stuckRig is a rig whose volumes are on a disk that can hang, with a file of
// which everything is cached and mapped.
type stuckRig struct {
	*rig
	disk    *hangingDisk
	file    *os.File
	mapping []byte
}

const stuckSize = 1 << 20

func newStuckRig(t *testing.T, options ...string) *stuckRig {
	t.Helper()
	t.Setenv("CMKFS_TEST_DRAIN", "1s")
	r := &stuckRig{rig: newRigWithoutVolume(t)}
	volumes := filepath.Join(r.dir, "accounts", "acct", "volumes")
	if err := os.MkdirAll(volumes, 0o700); err != nil {
		t.Fatal(err)
	}
	r.disk = newHangingDisk(t, volumes)
	// Before the disk goes, or if the test fails.
	t.Cleanup(func() {
		r.disk.thaw()
		r.stop()
	})
	r.addVolume(options...)
	if err := os.WriteFile(r.path("file"), bytes.Repeat([]byte("x"), stuckSize), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.file, err = os.OpenFile(r.path("file"), os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.file.Close() })
	if err := r.file.Sync(); err != nil {
		t.Fatal(err)
	}
	if r.mapping, err = unix.Mmap(int(r.file.Fd()), 0, stuckSize, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(r.mapping) })
	return r
}

// write writes beside everything else, and tells what came of it.
func (r *stuckRig) write() <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := r.file.WriteAt([]byte("written"), 0)
		if err == nil {
			err = r.file.Sync()
		}
		done <- err
	}()
	return done
}

// within waits for an answer; whoever does not get one hangs on the mount.
func within(t *testing.T, what string, answer <-chan error) error {
	t.Helper()
	select {
	case err := <-answer:
		return err
	case <-time.After(30 * time.Second):
		t.Fatalf("%s is not answered", what)
		return nil
	}
}

// closed wants nothing of the volume to be readable, and everybody to be told.
func (r *stuckRig) closed() {
	r.t.Helper()
	eventually(r.t, "nothing is cached", func() bool { return readable(r.t, r.mapping) == 0 })
	for what, do := range map[string]func() error{
		"read": func() error { _, err := r.file.ReadAt(make([]byte, 1), 0); return err },
		"stat": func() error { _, err := os.Stat(r.path("file")); return err },
		"list": func() error { _, err := os.ReadDir(r.mount); return err },
	} {
		answer := make(chan error, 1)
		go func() { answer <- do() }()
		if err := within(r.t, what, answer); err == nil {
			r.t.Errorf("%s works while access is taken away", what)
		}
	}
	faulted := make(chan error, 1)
	go func() {
		b := make([]byte, 1)
		if !faults(func() { copy(b, r.mapping) }) {
			r.t.Error("the mapping is readable while access is taken away")
		}
		faulted <- nil
	}()
	_ = within(r.t, "a page fault", faulted)
}

// TestSuspend_WorkerStuck: a worker whose disk hangs cannot write, cannot end and
// cannot even be killed. Everybody is answered all the same, nothing is readable,
// and when the disk is back the volume is whole.
func TestSuspend_WorkerStuck(t *testing.T) {
	for _, c := range []struct {
		name    string
		killed  bool // before access is taken away
		options []string
	}{
		{"write-through", false, nil},
		{"writeback", false, []string{"writeback"}},
		{"killed before", true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newStuckRig(t, c.options...)
			worker := r.workerPID()
			r.disk.hang()
			wrote := r.write()
			time.Sleep(100 * time.Millisecond) // it waits for the disk
			if c.killed {
				if err := unix.Kill(worker, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Millisecond)
				if readable(t, r.mapping) == 0 {
					t.Error("nothing is cached: the test would see nothing")
				}
			}
			began := time.Now()
			suspended := make(chan error, 1)
			go func() {
				_, err := r.SuspendVolume(r.ctx, "acct", "vol")
				suspended <- err
			}()
			err := within(t, "the write", wrote)
			t.Logf("the write ended after %v: %v", time.Since(began), err)
			if err == nil {
				t.Error("a write that the disk has not taken was acknowledged by fsync")
			}
			r.closed()
			t.Logf("nothing is readable after %v", time.Since(began))
			select {
			case err := <-suspended:
				t.Errorf("suspended although the worker still has the key: %v", err)
			default:
			}
			if v := r.volume(); v.State != api.VolumeSuspending {
				t.Errorf("while the worker cannot end: %+v", v)
			}
			r.disk.thaw()
			if err := within(t, "the suspension", suspended); err != nil {
				t.Fatal(err)
			}
			if alive(worker) {
				t.Error("the worker lives")
			}
			r.closed()
			if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(r.path("file"))
			if err != nil || len(got) != stuckSize || !bytes.Equal(got[7:], bytes.Repeat([]byte("x"), stuckSize-7)) {
				t.Errorf("after restoring: %d bytes, %v", len(got), err)
			}
			if s := string(got[:min(7, len(got))]); s != "written" && s != "xxxxxxx" {
				t.Errorf("a write that failed left %q", s)
			}
		})
	}
}

// TestKeeper_WorkerStuck: the supervisor is killed while the worker's disk hangs.
// The worker ends access as far as it can, the keeper if it was killed, too; the
// keeper waits for no disk, and a daemon started afterwards has everything.
func TestKeeper_WorkerStuck(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("worker killed %v", killed), func(t *testing.T) {
			r := newStuckRig(t)
			worker, keeper := r.workerPID(), r.keeper()
			r.disk.hang()
			wrote := r.write()
			time.Sleep(100 * time.Millisecond)
			if killed {
				if err := unix.Kill(worker, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			_ = unix.Kill(r.cmd.Process.Pid, unix.SIGKILL)
			if err := within(t, "the write", wrote); err == nil {
				t.Error("a write that the disk has not taken was acknowledged by fsync")
			}
			r.closed()
			t.Logf("nothing is readable after %v", time.Since(began))
			eventually(t, "the keeper ends", func() bool { return !alive(keeper) })
			r.closed()
			t.Logf("the keeper ended after %v", time.Since(began))
			r.disk.thaw()
			eventually(t, "the worker ends", func() bool { return !alive(worker) })
			r.daemon = startDaemon(t, r.dir)
			r.mustMount()
			got, err := os.ReadFile(r.path("file"))
			if err != nil || len(got) != stuckSize || !bytes.Equal(got[7:], bytes.Repeat([]byte("x"), stuckSize-7)) {
				t.Errorf("after the crash: %d bytes, %v", len(got), err)
			}
		})
	}
}
