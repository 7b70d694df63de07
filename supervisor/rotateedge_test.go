package supervisor_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/hsm/hsmtest"
	"cmkfs/internal/loadtest"
	"cmkfs/supervisor/api"
)

// volumeFile is the path of one of a volume's files.
func (r *moveRig) volumeFile(volume, name string) string {
	r.t.Helper()
	d, err := account.Open(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return filepath.Join(d.VolumeDir("acct", volume), name)
}

// holdVolume keeps an unmounted volume open, as a check of it does.
func (r *moveRig) holdVolume(name string) (release func()) {
	r.t.Helper()
	f, err := os.OpenFile(r.volumeFile(name, "lock"), os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		r.t.Fatal(err)
	}
	return func() { f.Close() }
}

// TestMoves_HeldVolume: a volume that another process has open is left for
// later, and named; the others move. Meanwhile the customer's key is replaced by
// another one and disabled, which old and new account keys survive.
func TestMoves_HeldVolume(t *testing.T) {
	address := serveMetrics(t)
	r := newMoveRig(t)
	r.useKey()
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
		t.Fatal(err)
	}
	release := r.holdVolume("away")
	defer release()
	_, err := r.RotateKey(r.ctx, "acct", nil)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeBusy || !strings.Contains(err.Error(), "2 of 3 volumes are done: volume away: the volume is in use by another process") {
		t.Fatalf("%v", err)
	}
	r.consistent()
	if a := r.stored(); len(a.AEKs) != 2 || r.account().Unfinished == nil {
		t.Fatalf("%+v", a)
	}
	if m := metrics(t, address); !strings.Contains(m, `cmkfs_key_move_started_timestamp_seconds{account="acct"} `) {
		t.Errorf("metrics do not show it:\n%s", m)
	}

	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "other"})
	if _, err := r.rekey("other", ""); err != nil {
		t.Fatal(err)
	}
	r.enable(false)
	asked := time.Now()
	eventually(t, "a check with the new key", func() bool { return r.account().LastSuccess.After(asked) })
	if s := r.account().State; s != "online" {
		t.Errorf("after the rekey: %s", s)
	}
	r.consistent()
	release()
	r.waitMoved(hsm.SourceKeyVault)
	r.allReadable()
}

// TestMoves_OldKeyUnderLease: a volume that a rotation could not take along is
// under the lease like the others.
func TestMoves_OldKeyUnderLease(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
		t.Fatal(err)
	}
	// The worker that serves it has no use for the superblock; a reseal has.
	super := r.volumeFile("vol", "superblock")
	good, err := os.ReadFile(super)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(super, make([]byte, len(good)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RotateKey(r.ctx, "acct", nil); api.ErrorOf(err).Code != api.CodeCorrupt {
		t.Fatalf("%v", err)
	}
	if err := r.readable("vol"); err != nil {
		t.Error(err)
	}
	r.enable(false)
	eventually(t, "the volume under the old key is suspended", func() bool { return r.status("vol").State == api.VolumeSuspended })
	if err := os.WriteFile(super, good, 0o600); err != nil {
		t.Fatal(err)
	}
	r.enable(true)
	eventually(t, "the key answers", func() bool { _, err := r.RestoreAccount(r.ctx, "acct"); return err == nil })
	if _, err := r.RotateKey(r.ctx, "acct", nil); err != nil {
		t.Fatal(err)
	}
	r.settled(hsm.SourceKeyVault)
	r.allReadable()
}

// TestMoves_LostRecord: superblocks say which key a volume is under, not
// volume.json, which is made again.
func TestMoves_LostRecord(t *testing.T) {
	r := newMoveRig(t)
	if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "small", QuotaBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"small", "vol"} {
		if err := os.Remove(r.volumeFile(name, "volume.json")); err != nil {
			t.Fatal(err)
		}
	}
	r.useKey()
	if done, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil || results(done)["vol"] != api.MoveDone || results(done)["small"] != api.MoveDone {
		t.Fatalf("%+v %v", done, err)
	}
	r.settled(hsm.SourceKeyVault)
	if v := r.status("small"); v.QuotaBytes != 1<<20 || v.KeySource != hsm.SourceKeyVault {
		t.Errorf("%+v", v)
	}
	r.allReadable()
}

// TestMoves_Token rotates and makes a transition with a key on a PKCS#11 token,
// under load.
func TestMoves_Token(t *testing.T) {
	token := hsmtest.NewToken(t)
	r := newMoveRig(t)
	key := hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: token.URI("good")}}
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Key: &key}); err != nil {
		t.Fatal(err)
	}
	report := loadtest.Measure(t, r.mount, func() {
		if done, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil || done.KeySource != hsm.SourcePKCS11 || done.Done != 3 {
			t.Errorf("%+v %v", done, err)
		}
		if _, err := r.RotateKey(r.ctx, "acct", nil); err != nil {
			t.Error(err)
		}
	})
	if err := report.Err(); err != nil && !errors.Is(err, loadtest.ErrSlow) { // how slow is TestRotateKey_UnderLoad's affair
		t.Error(err)
	}
	r.settled(hsm.SourcePKCS11)
	r.allReadable()
}

// TestMoves_GiveWay: a command takes over what the daemon resumed by itself, and
// a second command is refused.
func TestMoves_GiveWay(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	slow := emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "decrypt", Delay: 400 * time.Millisecond}}
	r.do(t, slow)
	first := make(chan error, 1)
	go func() {
		_, err := r.TransitionToCMK(r.ctx, "acct", nil)
		first <- err
	}()
	eventually(t, "the transition begins", func() bool { return r.stored().Move != nil })
	var e *api.Error
	if _, err := r.RotateKey(r.ctx, "acct", nil); !errors.As(err, &e) || e.Code != api.CodeBusy {
		t.Errorf("a second command: %v", err)
	}
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Key: r.key()}); !errors.As(err, &e) || e.Code != api.CodeBusy {
		t.Errorf("another key meanwhile: %v", err)
	}
	r.kill()
	<-first
	unmountLeft(r.point("vol"))
	unmountLeft(r.point("asleep"))
	r.daemon = startDaemon(t, r.dir)
	eventually(t, "the daemon goes on", func() bool { return len(r.events(account.AuditKeyMoveResumed)) > 0 || r.stored().Move == nil })
	if done, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil || done.Done != 3 {
		t.Errorf("%+v %v", done, err)
	}
	r.settled(hsm.SourceKeyVault)
	r.allReadable()
}
