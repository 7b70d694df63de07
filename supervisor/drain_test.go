package supervisor_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// lastEvent returns the account's last event of a kind.
func (r *rig) lastEvent(kind string) account.Event {
	r.t.Helper()
	dir, err := account.Open(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	var last account.Event
	if err := dir.Events("acct", 0, func(e account.Event) error {
		if e.Kind == kind {
			last = e
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return last
}

// TestSuspend_DrainDeadline: what the drain cannot save in its time is refused,
// its writers are told, and the event counts it. What was answered before is
// there afterwards, and nobody reads what was refused.
func TestSuspend_DrainDeadline(t *testing.T) {
	t.Setenv("CMKFS_TEST_DRAIN", "5ms")
	r := newRig(t, "writeback")
	const size = 12 << 20 // less than what the kernel begins to write back at once
	f, err := os.Create(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := bytes.Repeat([]byte("stored and synced. "), size/19+1)[:size]
	var other *os.File
	var detail map[string]string
	// Nobody can keep the kernel from writing everything back before.
	for tries := 0; detail["refused"] == "" || detail["refused"] == "0"; tries++ {
		if tries == 20 {
			t.Fatalf("never refused anything: %v", detail)
		}
		if _, err := f.WriteAt(old, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if other, err = os.OpenFile(r.path("file"), os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, size), 0); err != nil {
			t.Fatal(err)
		}
		if v, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil || v.State != api.VolumeSuspended {
			t.Fatalf("%+v %v", v, err)
		}
		if _, err := f.Stat(); !errnoIs(err, unix.ENOKEY) {
			t.Errorf("fstat while suspended: %v", err)
		}
		detail = r.lastEvent(account.AuditVolOffline).Detail
		if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Close(); err == nil {
		t.Error("close after the loss of data says nothing")
	}
	if err := f.Sync(); err == nil {
		t.Error("fsync after the loss of data says nothing")
	}
	if err := f.Sync(); err != nil {
		t.Errorf("the loss is reported twice: %v", err)
	}
	check := func() {
		t.Helper()
		got, err := os.ReadFile(r.path("file"))
		if err != nil || len(got) != size {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		saved := 0
		for at := 0; at < size; at += 4096 {
			switch page := got[at : at+4096]; {
			case bytes.Count(page, []byte{0xee}) == 4096:
				saved++
			case !bytes.Equal(page, old[at:at+4096]):
				t.Fatalf("the page at %d is neither the old nor the new one", at)
			}
		}
		t.Logf("%d of %d pages saved, event: %v", saved, size/4096, detail)
		if saved == size/4096 {
			t.Error("what was refused is read")
		}
	}
	check()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	r.mustMount()
	check()
}

// TestSuspend_WorkerStopped: a worker that does not drain because it does not run
// is killed, and access ends all the same, cached and mapped pages included.
func TestSuspend_WorkerStopped(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.path("file"), bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
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
	pid := r.workerPID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if v, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil || v.State != api.VolumeSuspended {
		t.Fatalf("%+v %v", v, err)
	}
	t.Logf("access ended after %v", time.Since(began))
	if alive(pid) {
		t.Error("the worker lives")
	}
	buf := make([]byte, 1)
	if _, err := f.ReadAt(buf, 0); !errnoIs(err, unix.ENOKEY) {
		t.Errorf("read: %v", err)
	}
	if !faults(func() { buf[0] = mapping[0] }) {
		t.Error("the mapping is still readable")
	}
	if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(buf, 0); err != nil || buf[0] != 'x' {
		t.Errorf("after restoring: %q %v", buf, err)
	}
}
