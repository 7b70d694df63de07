package supervisor_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// keeper returns the pid of the daemon's keeper.
func (r *rig) keeper() int {
	r.t.Helper()
	var pids []int
	eventually(r.t, "there is one keeper", func() bool {
		pids = children(r.t, r.cmd.Process.Pid, "keeper.lock")
		return len(pids) == 1
	})
	return pids[0]
}

// holdsDevice reports whether a process has /dev/fuse open.
func holdsDevice(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && target == "/dev/fuse" {
			return true
		}
	}
	return false
}

// TestKeeper_EveryOrder kills supervisor and worker in every order while programs
// read. Every reader gets an error, nothing that was cached or mapped can be read
// any more, and the next daemon mounts the volume again by itself.
func TestKeeper_EveryOrder(t *testing.T) {
	sig := func(pid int, s unix.Signal) { _ = unix.Kill(pid, s) } // it may be gone
	for name, kill := range map[string]func(r *rig, supervisor, worker int){
		"supervisor": func(_ *rig, s, _ int) { sig(s, unix.SIGKILL) },
		"supervisor, worker": func(_ *rig, s, w int) {
			sig(s, unix.SIGKILL)
			sig(w, unix.SIGKILL)
		},
		"supervisor, worker while it drains": func(_ *rig, s, w int) {
			sig(s, unix.SIGKILL)
			time.Sleep(800 * time.Microsecond)
			sig(w, unix.SIGKILL)
		},
		"worker, supervisor": func(_ *rig, s, w int) {
			sig(w, unix.SIGKILL)
			sig(s, unix.SIGKILL)
		},
		"supervisor, worker stopped": func(_ *rig, s, w int) {
			sig(w, unix.SIGSTOP)
			sig(s, unix.SIGKILL)
		},
		"keeper, then both": func(r *rig, s, w int) {
			old := r.keeper()
			sig(old, unix.SIGKILL)
			eventually(r.t, "another keeper that holds the mount", func() bool {
				k := r.keeper()
				return k != old && holdsDevice(k)
			})
			sig(s, unix.SIGKILL)
			sig(w, unix.SIGKILL)
		},
		"terminated by a service manager": func(r *rig, s, w int) {
			k := r.keeper()
			sig(s, unix.SIGKILL)
			sig(k, unix.SIGTERM)
			sig(w, unix.SIGTERM)
		},
		"suspended, supervisor": func(r *rig, s, w int) {
			if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
				r.t.Error(err)
			}
			sig(s, unix.SIGKILL)
		},
	} {
		t.Run(name, func(t *testing.T) { keeperTakesOver(t, kill) })
	}
}

func keeperTakesOver(t *testing.T, kill func(r *rig, supervisor, worker int)) {
	r := newRig(t)
	content := bytes.Repeat([]byte("canary! "), 1<<20)
	if err := os.WriteFile(r.path("file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapping, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapping)
	// Programs of their own: whoever has files open on a mount that does not
	// answer cannot start another program.
	var readers sync.WaitGroup
	for i := range 3 {
		reader := exec.Command("/proc/self/exe", "read", r.path("file"), fmt.Sprint(i))
		readers.Go(func() { _ = reader.Run() })
	}
	time.Sleep(50 * time.Millisecond)
	keeper := r.keeper()
	kill(r, r.cmd.Process.Pid, r.workerPID())
	began := time.Now()
	<-r.ended
	readers.Wait()
	t.Logf("all readers had an error %v after the last signal", time.Since(began))
	eventually(t, "the keeper ends", func() bool { return !alive(keeper) })
	buf := make([]byte, 4096)
	if _, err := f.ReadAt(buf, 0); err == nil {
		t.Error("a cached page can still be read")
	}
	if !faults(func() { buf[0] = mapping[4096] }) {
		t.Error("the mapping is still readable")
	}
	if _, err := os.ReadFile(r.path("file")); err == nil {
		t.Error("the file can still be read")
	}
	r.daemon = startDaemon(t, r.dir)
	if r.account().State == "suspended" {
		if _, err := r.RestoreAccount(r.ctx, "acct"); err != nil {
			t.Fatal(err)
		}
	}
	r.mustMount()
	if got, err := os.ReadFile(r.path("file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after the crash: %d bytes, %v", len(got), err)
	}
}

// TestKeeper_BlockedRequests: who waits while a volume is suspended does not wait
// for ever if the daemon is killed.
func TestKeeper_BlockedRequests(t *testing.T) {
	r := newRig(t)
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Policy: &account.PolicyChange{OnSuspend: account.OnSuspendBlock}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path("file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
		t.Fatal(err)
	}
	reader := exec.Command("/proc/self/exe", "read", r.path("file"), "0")
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- reader.Wait() }()
	select {
	case <-ended:
		t.Error("the reader did not wait")
	case <-time.After(200 * time.Millisecond):
	}
	r.kill()
	<-ended
}

// TestKeeper_Stopped: a keeper that does not run keeps no mount from ending.
func TestKeeper_Stopped(t *testing.T) {
	r := newRig(t)
	f, err := os.Create(r.path("open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	keeper := r.keeper()
	if err := unix.Kill(keeper, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.stop() // takes the volume away from us
	if _, err := f.Stat(); err == nil {
		t.Error("the open file still answers")
	}
	if alive(keeper) {
		t.Error("the keeper is left")
	}
}
