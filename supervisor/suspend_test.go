package supervisor_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// TestSuspend_OpenFiles_FailAndComeBack follows descriptors and a mapping that
// were opened before through a suspension and out of it.
func TestSuspend_OpenFiles_FailAndComeBack(t *testing.T) {
	for _, options := range [][]string{nil, {"writeback"}} {
		t.Run(strings.Join(append([]string{"options"}, options...), "-"), func(t *testing.T) {
			r := newRig(t, options...)
			f, err := os.OpenFile(r.path("file"), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			content := make([]byte, 1<<20)
			rand.Read(content)
			if _, err := f.Write(content); err != nil {
				t.Fatal(err)
			}
			mapping, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(mapping)
			copy(mapping[8192:], "dirty in the mapping")
			copy(content[8192:], "dirty in the mapping")

			v, err := r.SuspendVolume(r.ctx, "acct", "vol")
			if err != nil || v.State != api.VolumeSuspended || v.WorkerPID != 0 {
				t.Fatalf("suspend: %+v %v", v, err)
			}
			buf := make([]byte, 100)
			if _, err := f.ReadAt(buf, 0); !errnoIs(err, unix.ENOKEY) {
				t.Errorf("read: %v", err)
			}
			if _, err := f.WriteAt(buf, 0); !errnoIs(err, unix.ENOKEY) {
				t.Errorf("write: %v", err)
			}
			if _, err := f.Stat(); !errnoIs(err, unix.ENOKEY) {
				t.Errorf("fstat: %v", err)
			}
			if _, err := os.ReadDir(r.mount); !errnoIs(err, unix.ENOKEY) {
				t.Errorf("readdir: %v", err)
			}
			if _, err := os.Open(r.path("file")); !errnoIs(err, unix.ENOKEY) {
				t.Errorf("open: %v", err)
			}
			if !faults(func() { buf[0] = mapping[0] }) {
				t.Error("the mapping is still readable")
			}
			if v, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil || v.State != api.VolumeOnline {
				t.Fatalf("restore: %+v %v", v, err)
			}
			got := make([]byte, len(content))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
				t.Errorf("read after restoring: %v, equal %v", err, bytes.Equal(got, content))
			}
			if faults(func() { copy(got, mapping) }) || !bytes.Equal(got, content) {
				t.Error("the mapping did not come back")
			}
			if _, err := f.WriteAt([]byte("more"), 0); err != nil {
				t.Errorf("write after restoring: %v", err)
			}
		})
	}
}

// TestSuspend_WorkerKilledMeanwhile: however the worker ends while it suspends,
// the volume is suspended afterwards, and nothing that was answered is lost.
func TestSuspend_WorkerKilledMeanwhile(t *testing.T) {
	r := newRig(t)
	content := make([]byte, 8<<20)
	rand.Read(content)
	if err := os.WriteFile(r.path("file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			buf := make([]byte, 64<<10)
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				off := n * 7919 % (len(content) - len(buf))
				got, err := f.ReadAt(buf, int64(off))
				if err == nil && !bytes.Equal(buf, content[off:off+len(buf)]) {
					t.Errorf("wrong contents at %d, %d bytes", off, got)
					return
				}
				if err != nil && !errnoIs(err, unix.ENOKEY) {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	for n := range 12 {
		pid := r.workerPID()
		done := make(chan error, 1)
		go func() {
			_, err := r.SuspendVolume(r.ctx, "acct", "vol")
			done <- err
		}()
		time.Sleep(time.Duration(n) * time.Millisecond)
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended by then
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if v := r.volume(); v.State != api.VolumeSuspended {
			t.Fatalf("%+v", v)
		}
		if _, err := f.Stat(); !errnoIs(err, unix.ENOKEY) {
			t.Errorf("fstat while suspended: %v", err)
		}
		if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
	if got, err := os.ReadFile(r.path("file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("at the end: %d bytes, %v", len(got), err)
	}
}

// faults reports whether f meets a page that is not there.
func faults(f func()) (faulted bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { faulted = recover() != nil }()
	f()
	return false
}

// quickChecks makes the daemon ask the key several times a second.
func quickChecks(r *rig, recovery string) {
	r.t.Helper()
	_, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Policy: &account.PolicyChange{
		CheckInterval: account.Duration(100 * time.Millisecond), CheckIntervalUnhealthy: account.Duration(100 * time.Millisecond),
		OutageGrace: account.Duration(2 * time.Second), Recovery: recovery,
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	// The new interval counts from the next event on.
	if _, err := r.RestoreAccount(r.ctx, "acct"); err != nil {
		r.t.Fatal(err)
	}
}

// TestLease_KeyTakenAway_SuspendsAndRestores takes the platform key away, which
// the daemon notices by itself.
func TestLease_KeyTakenAway_SuspendsAndRestores(t *testing.T) {
	for _, recovery := range []string{account.RecoveryManual, account.RecoveryAutomatic} {
		t.Run(recovery, func(t *testing.T) {
			r := newRig(t)
			quickChecks(r, recovery)
			f, err := os.Create(r.path("file"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("before"); err != nil {
				t.Fatal(err)
			}
			key := filepath.Join(r.dir, "platform.key")
			if err := os.Rename(key, key+".away"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the account is suspended", func() bool { return r.account().State == "suspended" })
			if _, err := f.ReadAt(make([]byte, 6), 0); err == nil || errors.Is(err, unix.EIO) {
				t.Errorf("read while suspended: %v", err)
			}
			if v := r.volume(); v.State != api.VolumeSuspended {
				t.Errorf("while suspended: %+v", v)
			}
			if pids := children(t, r.cmd.Process.Pid, "worker"); len(pids) != 0 {
				t.Errorf("workers %v are left", pids)
			}
			if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "more"}); err == nil {
				t.Error("a volume was created while suspended")
			}
			if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err == nil {
				t.Error("access came back without the key")
			}
			if err := os.Rename(key+".away", key); err != nil {
				t.Fatal(err)
			}
			if recovery == account.RecoveryManual {
				time.Sleep(500 * time.Millisecond)
				if s := r.account().State; s != "suspended" {
					t.Errorf("came back by itself: %s", s)
				}
				if _, err := r.RestoreAccount(r.ctx, "acct"); err != nil {
					t.Fatal(err)
				}
			} else {
				eventually(t, "the account is online", func() bool { return r.account().State == "online" })
			}
			b := make([]byte, 6)
			if _, err := f.ReadAt(b, 0); err != nil || string(b) != "before" {
				t.Errorf("read after restoring: %q %v", b, err)
			}
		})
	}
}

// TestLease_SupervisorHangs: a worker whose lease is not renewed stops by
// itself, and goes on when the supervisor does.
func TestLease_SupervisorHangs(t *testing.T) {
	r := newRig(t)
	quickChecks(r, account.RecoveryAutomatic)
	if err := os.WriteFile(r.path("file"), []byte("content"), 0o600); err != nil {
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
	b := make([]byte, 7)
	if faults(func() { copy(b, mapping) }) {
		t.Fatal("the mapping is not readable")
	}
	pid := r.workerPID()
	if err := r.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer r.cmd.Process.Signal(unix.SIGCONT)
	// A zombie is dead enough: its parent cannot reap it now.
	eventually(t, "the worker stops by itself", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	if err := r.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume is served again", func() bool {
		v := r.volume()
		return v.State == api.VolumeOnline && v.WorkerPID != pid && v.WorkerPID != 0
	})
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "content" {
		t.Errorf("%q %v", b, err)
	}
}

// TestMount_KeyAway mounts while the key is not to be had.
func TestMount_KeyAway(t *testing.T) {
	r := newRig(t)
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(r.dir, "platform.key")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	quickChecksFail := api.UpdateAccount{Policy: &account.PolicyChange{
		CheckInterval: account.Duration(100 * time.Millisecond), CheckIntervalUnhealthy: account.Duration(100 * time.Millisecond)}}
	if _, err := r.UpdateAccount(r.ctx, "acct", quickChecksFail); err != nil {
		t.Fatal(err)
	}
	var e *api.Error
	// The account's own check may have suspended it first.
	_, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: r.mount})
	if !errors.As(err, &e) || e.Code != api.CodeDenied && e.Code != api.CodeSuspended {
		t.Errorf("mount without the key: %v", err)
	}
	if v := r.volume(); v.State != api.VolumeUnmounted {
		t.Errorf("after a failed mount: %+v", v)
	}
	v, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: r.mount, WhenLocked: api.WhenLockedSuspended})
	if err != nil || v.State != api.VolumeSuspended {
		t.Fatalf("mount suspended: %+v %v", v, err)
	}
	if err := os.WriteFile(r.path("file"), nil, 0o600); !errnoIs(err, unix.ENOKEY) {
		t.Errorf("write while suspended: %v", err)
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	// A check that had found the key away may still be about to suspend.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := r.RestoreVolume(r.ctx, "acct", "vol")
		if err == nil {
			break
		}
		if !errors.As(err, &e) || e.Code != api.CodeSuspended && e.Code != api.CodeBusy || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(r.path("file"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
}

// TestMount_BadMountPoints is refused with one sentence and leaves nothing.
func TestMount_BadMountPoints(t *testing.T) {
	r := newRig(t)
	if err := os.Mkdir(r.path("inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	file, full := filepath.Join(base, "file"), filepath.Join(base, "full")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.MkdirAll(filepath.Join(full, "x"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "two"}); err != nil {
		t.Fatal(err)
	}
	for point, want := range map[string]api.Code{
		filepath.Join(base, "missing"):   api.CodeNotFound,
		file:                             api.CodeInvalid,
		full:                             api.CodeBusy,
		r.mount:                          api.CodeBusy,
		r.path("inside"):                 api.CodeInvalid,
		"relative":                       api.CodeInvalid,
		"/proc":                          api.CodeBusy,
		filepath.Join(r.dir, "accounts"): api.CodeInvalid,
	} {
		_, err := r.Mount(r.ctx, "acct", "two", api.Mount{MountPoint: point})
		var e *api.Error
		if !errors.As(err, &e) || e.Code != want {
			t.Errorf("%s: %v", point, err)
		}
	}
	empty := filepath.Join(base, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"option": func() error {
			_, err := r.Mount(r.ctx, "acct", "two", api.Mount{MountPoint: empty, Options: []string{"bogus"}})
			return err
		},
		"mounted": func() error { _, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: empty}); return err },
		"delete":  func() error { return r.DeleteVolume(r.ctx, "acct", "vol") },
		"name":    func() error { _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "a/b"}); return err },
		"twice":   func() error { _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "two"}); return err },
		"source": func() error {
			_, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "x", KeySource: "PKCS11"})
			return err
		},
		"account": func() error { _, err := r.CreateVolume(r.ctx, "nobody", api.CreateVolume{Name: "x"}); return err },
		"unmount": func() error { _, err := r.Unmount(r.ctx, "acct", "two", api.Unmount{}); return err },
	} {
		if err := call(); err == nil {
			t.Errorf("%s: not refused", name)
		} else if n := fmt.Sprint(err); strings.Contains(n, "\n") {
			t.Errorf("%s: more than a sentence: %s", name, n)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	f, err := os.Create(r.path("open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var e *api.Error
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); !errors.As(err, &e) || e.Code != api.CodeBusy {
		t.Errorf("unmount with an open file: %v", err)
	}
	if _, err := f.WriteString("still served"); err != nil {
		t.Error(err)
	}
	if v, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{Lazy: true}); err != nil || v.MountPoint != "" {
		t.Errorf("lazy unmount: %+v %v", v, err)
	}
	if _, err := f.WriteString("still served"); err != nil {
		t.Error(err)
	}
	f.Close()
	eventually(t, "the volume is unmounted", func() bool {
		st, err := r.Status(r.ctx)
		return err == nil && st.Accounts[0].Volumes[1].State == api.VolumeUnmounted
	})
}
