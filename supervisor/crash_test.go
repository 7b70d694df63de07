package supervisor_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor/api"
)

// alive says whether a process still runs.
func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

// TestCrash_SupervisorKilled: its worker suspends and ends by itself, and the
// next daemon clears the mount and has the data.
func TestCrash_SupervisorKilled(t *testing.T) { crash(t, func(r *rig) { r.kill() }) }

// TestCrash_EverythingKilled at once.
func TestCrash_EverythingKilled(t *testing.T) {
	crash(t, func(r *rig) {
		pid := r.cmd.Process.Pid
		pids := append(children(t, pid, "worker"), children(t, pid, "key-agent")...)
		pids = append(pids, children(t, pid, "keeper.lock")...)
		if len(pids) != 3 {
			t.Errorf("children %v", pids)
		}
		for _, p := range append(pids, pid) {
			if err := unix.Kill(p, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		<-r.ended
	})
}

// readFile reads a file from the mount, not from the cache, until it fails.
func readFile(path string, first int64) {
	buf := make([]byte, 64<<10)
	for {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		for off := first << 20; err == nil; off += 65 << 10 {
			_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			_, err = f.ReadAt(buf, off)
		}
		f.Close()
		if !errors.Is(err, io.EOF) {
			return
		}
	}
}

// TestCrash_KilledWhileDraining kills a worker that drains because its
// supervisor was killed, while programs read. What is stuck then is cleared by
// the next daemon.
func TestCrash_KilledWhileDraining(t *testing.T) {
	for n := range 6 {
		r := newRig(t)
		content := make([]byte, 8<<20)
		if err := os.WriteFile(r.path("file"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		// Programs of their own: whoever has files open on a mount that does not
		// answer cannot start another program.
		var readers sync.WaitGroup
		for i := range 4 {
			reader := exec.Command("/proc/self/exe", "read", r.path("file"), fmt.Sprint(i))
			readers.Go(func() { _ = reader.Run() })
		}
		time.Sleep(100 * time.Millisecond)
		pid := r.workerPID()
		_ = r.cmd.Process.Kill()
		time.Sleep(time.Duration(n) * 600 * time.Microsecond)
		_ = unix.Kill(pid, unix.SIGKILL)
		<-r.ended
		r.daemon = startDaemon(t, r.dir)
		readers.Wait()
		r.mustMount()
		if got, err := os.ReadFile(r.path("file")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("after the crash: %d bytes, %v", len(got), err)
		}
		r.stop()
	}
}

func crash(t *testing.T, kill func(*rig)) {
	r := newRig(t)
	f, err := os.Create(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := strings.Repeat("what was answered is kept\n", 10000)
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	mapping, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapping)
	var sum byte
	if faults(func() { sum += mapping[0] }) {
		t.Fatal("the mapping is not readable")
	}
	pid := r.workerPID()
	kill(r)
	eventually(t, "the worker ends", func() bool { return !alive(pid) })
	if _, err := os.ReadFile(r.path("file")); !errnoIs(err, unix.ENOTCONN) {
		t.Errorf("the mount after the crash: %v", err)
	}
	d := startDaemon(t, r.dir)
	r.daemon = d
	if _, err := os.Stat(r.path("file")); !os.IsNotExist(err) {
		t.Errorf("the stale mount is left: %v", err)
	}
	r.mustMount()
	if got, err := os.ReadFile(r.path("file")); err != nil || string(got) != content {
		t.Errorf("after the crash: %d bytes, %v", len(got), err)
	}
}

// TestCrash_SupervisorKilled_MappingEnds: no plaintext outlives the supervisor,
// not even in a mapping.
func TestCrash_SupervisorKilled_MappingEnds(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.path("file"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapping, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapping)
	var sum byte
	if faults(func() { sum += mapping[0] }) {
		t.Fatal("the mapping is not readable")
	}
	pid := r.workerPID()
	r.kill()
	eventually(t, "the worker ends", func() bool { return !alive(pid) })
	if !faults(func() { sum += mapping[0] }) {
		t.Error("the mapping is still readable")
	}
}

// TestCrash_KeyAgentKilled: nobody notices, and the next worker gets its key
// from the next agent.
func TestCrash_KeyAgentKilled(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.path("file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	agents := children(t, r.cmd.Process.Pid, "key-agent")
	if len(agents) != 1 {
		t.Fatalf("key agents %v", agents)
	}
	old := r.workerPID()
	for _, pid := range []int{agents[0], old} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(r.path("file")); err != nil || string(b) != "x" {
		t.Errorf("read: %q %v", b, err)
	}
	eventually(t, "another worker serves", func() bool {
		v := r.volume()
		return v.State == api.VolumeOnline && v.WorkerPID != old && v.WorkerPID != 0
	})
}

// TestCrash_KeyAgentHangs while a worker is needed: the agent is replaced.
func TestCrash_KeyAgentHangs(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.path("file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	agents := children(t, r.cmd.Process.Pid, "key-agent")
	for _, pid := range agents {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Kill(r.workerPID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(r.path("file")); err != nil || string(b) != "x" {
		t.Errorf("read: %q %v", b, err)
	}
	for _, pid := range agents {
		if alive(pid) {
			t.Errorf("key agent %d is left", pid)
		}
	}
}

// TestRun_SecondDaemon is refused, and the first goes on.
func TestRun_SecondDaemon(t *testing.T) {
	r := newRig(t)
	d, err := tryDaemon(t, r.dir)
	if err == nil {
		d.stop()
		t.Fatal("two daemons on one state directory")
	}
	if !strings.Contains(err.Error(), "another cmkfsd") {
		t.Error(err)
	}
	if v := r.volume(); v.State != api.VolumeOnline {
		t.Errorf("%+v", v)
	}
}

// TestRun_Terminated unmounts, also a mount with open files, and loses nothing.
func TestRun_Terminated(t *testing.T) {
	r := newRig(t)
	f, err := os.Create(r.path("open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprint(f, "content"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if _, err := os.Stat(r.path("open")); !os.IsNotExist(err) {
		t.Errorf("still mounted: %v", err)
	}
	if _, err := f.Stat(); err == nil {
		t.Error("the open file still answers")
	}
	r.daemon = startDaemon(t, r.dir)
	r.mustMount()
	if b, err := os.ReadFile(r.path("open")); err != nil || string(b) != "content" {
		t.Errorf("%q %v", b, err)
	}
}
