package supervisor_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/supervisor/api"
)

// bootRig is a vaultRig whose volumes are on a disk that can hang, and what is
// known to be stored there.
type bootRig struct {
	*vaultRig
	disk   *hangingDisk
	stored map[string][]byte
}

func newBootRig(t *testing.T) *bootRig {
	t.Helper()
	r := &bootRig{vaultRig: startVault(t), stored: map[string][]byte{}}
	volumes := filepath.Join(r.dir, "accounts", "acct", "volumes")
	if err := os.MkdirAll(volumes, 0o700); err != nil {
		t.Fatal(err)
	}
	r.disk = newHangingDisk(t, volumes)
	t.Cleanup(func() { // before the disk goes
		r.disk.thaw()
		r.stop()
	})
	r.useKey()
	r.addVolume()
	r.answered("before")
	return r
}

// answered writes a file that must be there for ever after.
func (r *bootRig) answered(name string) {
	r.t.Helper()
	content := bytes.Repeat([]byte(name+" was answered\n"), 10_000)
	if err := os.WriteFile(r.path(name), content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.stored[name] = content
}

func (r *bootRig) enabled(on bool) {
	r.t.Helper()
	r.do(r.t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &on})
}

func (r *bootRig) becomes(state account.State) {
	r.t.Helper()
	eventually(r.t, "the account is "+string(state), func() bool { return r.account().State == string(state) })
}

// killEverything kills every process of the daemon at once.
func (r *bootRig) killEverything() {
	pid := r.cmd.Process.Pid
	for _, p := range append(children(r.t, pid, ""), pid) {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	<-r.ended
}

// TestBoot_KilledInEveryState: every process is killed in each state of the lease,
// and the key is away when the daemon starts. A mount is refused with the
// document's sentence, comes up suspended when that is asked for, more than once;
// and when the key is back everything is there that was ever answered.
func TestBoot_KilledInEveryState(t *testing.T) {
	const sentence = "Azure Key Vault key is not enabled"
	// in brings the account into a state; the key is taken away after it.
	for name, in := range map[string]func(r *bootRig){
		"online": func(*bootRig) {},
		"degraded": func(r *bootRig) {
			r.do(r.t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultRefuse}})
			r.becomes(account.StateDegraded)
			r.answered("while degraded")
		},
		"suspending": func(r *bootRig) {
			r.disk.hang()
			r.enabled(false)
			go func() { _ = os.WriteFile(r.path("not answered"), []byte("x"), 0o600) }()
			r.becomes(account.StateSuspending)
		},
		"suspended": func(r *bootRig) {
			r.enabled(false)
			r.becomes(account.StateSuspended)
		},
		"restoring, the key is asked": func(r *bootRig) {
			r.enabled(false)
			r.becomes(account.StateSuspended)
			r.enabled(true)
			r.delay(r.t, time.Minute)
			go func() { _, _ = r.RestoreAccount(r.ctx, "acct") }()
			r.becomes(account.StateRestoring)
		},
		"restoring, the volume is opened": func(r *bootRig) {
			r.enabled(false)
			r.becomes(account.StateSuspended)
			r.disk.hang()
			r.enabled(true)
			go func() { _, _ = r.RestoreAccount(r.ctx, "acct") }()
			eventually(r.t, "a worker opens the volume", func() bool { return len(children(r.t, r.cmd.Process.Pid, "worker")) > 0 })
			r.becomes(account.StateRestoring)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newBootRig(t)
			in(r)
			r.enabled(false)
			r.killEverything()
			r.undelay(t)
			r.disk.thaw()
			for range 2 {
				r.daemon = startDaemon(t, r.dir)
				_, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: r.mount})
				var e *api.Error
				if !errors.As(err, &e) || e.Code != api.CodeDenied && e.Code != api.CodeSuspended || !strings.Contains(err.Error(), sentence) {
					t.Errorf("mount without the key: %v", err)
				}
				v, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: r.mount, WhenLocked: api.WhenLockedSuspended})
				if err != nil || v.State != api.VolumeSuspended {
					t.Fatalf("mount suspended: %+v %v", v, err)
				}
				if _, err := os.ReadFile(r.path("before")); err == nil {
					t.Error("it can be read without the key")
				}
				if err := os.WriteFile(r.path("new"), nil, 0o600); err == nil {
					t.Error("it can be written without the key")
				}
				r.killEverything()
			}
			r.daemon = startDaemon(t, r.dir)
			r.enabled(true)
			if _, err := r.RestoreAccount(r.ctx, "acct"); err != nil {
				t.Fatal(err)
			}
			r.mustMount()
			for name, want := range r.stored {
				if got, err := os.ReadFile(r.path(name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
		})
	}
}
