package supervisor_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/internal/loadtest"
	"cmkfs/supervisor/api"
)

// TestFollow_UnderLoad: a new version of the key is taken over by itself,
// without programs noticing it, and said.
func TestFollow_UnderLoad(t *testing.T) {
	r := newVaultRig(t)
	loadtest.Prove(t, func(int) loadtest.Report {
		return loadtest.Measure(t, r.mount, func() {
			old, events := r.account().KeyID, len(r.events(account.AuditKeyVersionChanged))
			r.do(t, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "cmk"})
			eventually(t, "the new version is followed", func() bool { return len(r.events(account.AuditKeyVersionChanged)) > events })
			now := r.account().KeyID
			_, _, oldVersion, _ := hsm.ParseKeyURI(old)
			_, _, newVersion, err := hsm.ParseKeyURI(now)
			if e := r.events(account.AuditKeyVersionChanged)[events]; err != nil || now == old || e.Detail["oldKeyVersion"] != oldVersion || e.Detail["newKeyVersion"] != newVersion {
				t.Errorf("from %s to %s: %+v", old, now, e)
			}
			no := false
			r.do(t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Version: oldVersion, Enabled: &no})
			asked := time.Now()
			eventually(t, "two checks with the new version", func() bool { return r.account().LastSuccess.After(asked.Add(time.Second)) })
			if st := r.account(); st.State != "online" || st.Warning != "" {
				t.Errorf("%+v", st)
			}
		})
	})
	// One version, one event.
	time.Sleep(3 * time.Second)
	if a := r.stored(); len(a.PreviousKeys) != len(r.events(account.AuditKeyVersionChanged)) {
		t.Errorf("%+v, events %+v", a.PreviousKeys, r.events(account.AuditKeyVersionChanged))
	}
}

// TestFollow_UnusableVersion: the one in force stays, with a warning, and the
// vault is asked no more than otherwise; once the new one is usable it is taken.
func TestFollow_UnusableVersion(t *testing.T) {
	for name, c := range map[string]struct {
		break_, mend emulator.Command
		warning      string
	}{
		"disabled":       {emulator.Command{Enabled: new(bool)}, emulator.Command{Enabled: ptr(true)}, "Azure Key Vault key is not enabled"},
		"expired":        {emulator.Command{Expires: time.Now().Add(-time.Hour)}, emulator.Command{NoDates: true}, "Azure Key Vault key is expired"},
		"not yet active": {emulator.Command{NotBefore: time.Now().Add(time.Hour)}, emulator.Command{NoDates: true}, "Azure Key Vault key has not been activated"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newVaultRig(t)
			old := r.account().KeyID
			set := func(c emulator.Command) {
				c.Action, c.Vault, c.Key = emulator.KeySet, "demo", "cmk"
				r.do(t, c)
			}
			_, _, version, err := hsm.ParseKeyURI(old)
			if err != nil {
				t.Fatal(err)
			}
			soon := time.Now().Add(5 * 24 * time.Hour).UTC().Truncate(time.Second)
			set(emulator.Command{Version: version, Expires: soon})
			create := c.break_
			create.Action, create.Vault, create.Key = emulator.KeyCreate, "demo", "cmk"
			r.do(t, create)
			eventually(t, "the warning", func() bool { return strings.Contains(r.account().Warning, c.warning) })
			encrypts := r.e.Requests("encrypt")
			asked := time.Now()
			eventually(t, "three more checks", func() bool { return r.account().LastSuccess.After(asked.Add(2 * time.Second)) })
			// What is said about the expiry is about the version in force.
			if st := r.account(); st.State != "online" || st.KeyID != old || !st.KeyExpires.Equal(soon) || !strings.Contains(st.Warning, "the key expires within 7 days") {
				t.Errorf("%+v", st)
			}
			if n := r.e.Requests("encrypt"); n != encrypts {
				t.Errorf("the version was tried %d times", n-encrypts)
			}
			if e := r.events(account.AuditKeyVersionRefused); len(e) != 1 || !strings.Contains(e[0].Reason, c.warning) {
				t.Errorf("events %+v", e)
			}
			set(c.mend)
			eventually(t, "the version is followed", func() bool { st := r.account(); return st.KeyID != old && st.Warning == "" })
		})
	}
}

func ptr[T any](v T) *T { return &v }

// TestFollow_FailsAndIsRetried: a version that looks good and fails does not
// turn a good check into a bad one, and is not tried at every check.
func TestFollow_FailsAndIsRetried(t *testing.T) {
	r := newVaultRig(t)
	old := r.account().KeyID
	r.do(t, emulator.Command{Action: emulator.Revoke, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"encrypt"}})
	r.do(t, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "cmk"})
	eventually(t, "the warning", func() bool { return strings.Contains(r.account().Warning, "new version") })
	encrypts, asked := r.e.Requests("encrypt"), time.Now()
	eventually(t, "five more checks", func() bool { return r.account().LastSuccess.After(asked.Add(4 * time.Second)) })
	if st := r.account(); st.State != "online" || st.KeyID != old {
		t.Errorf("%+v", st)
	}
	if n := r.e.Requests("encrypt"); n > encrypts+1 {
		t.Errorf("the version was tried %d times in five checks", n-encrypts)
	}
	r.do(t, emulator.Command{Action: emulator.Grant, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"encrypt"}})
	eventually(t, "the version is followed", func() bool { st := r.account(); return st.KeyID != old && st.Warning == "" })
}

// TestFollow_HangingVault: what takes the new version over may hang; checks go
// on and the lease with them.
func TestFollow_HangingVault(t *testing.T) {
	r := newVaultRig(t)
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultBlackHole, Op: "encrypt"}})
	r.do(t, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "cmk"})
	encrypts := r.e.Requests("encrypt")
	eventually(t, "the new version is tried", func() bool { return r.e.Requests("encrypt") > encrypts })
	asked := time.Now()
	eventually(t, "three more checks", func() bool { return r.account().LastSuccess.After(asked.Add(2 * time.Second)) })
	if st := r.account(); st.State != "online" {
		t.Errorf("%+v", st)
	}
}

// TestFollow_GivesWay: a command that changes the key does not wait for a vault
// that hangs while a new version is taken over.
func TestFollow_GivesWay(t *testing.T) {
	r := newVaultRig(t)
	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "other"})
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultBlackHole, Op: "encrypt", Count: 1}})
	encrypts := r.e.Requests("encrypt")
	r.do(t, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "cmk"})
	eventually(t, "the new version is tried", func() bool { return r.e.Requests("encrypt") > encrypts })
	if a, err := r.rekey("other", ""); err != nil || !strings.Contains(a.Current().Wrapped.KeyID, "/other/") {
		t.Errorf("%+v %v", a, err)
	}
	if e := r.events(account.AuditKeyVersionRefused); len(e) != 0 {
		t.Errorf("%+v", e)
	}
	asked := time.Now()
	eventually(t, "two more checks", func() bool { return r.account().LastSuccess.After(asked.Add(time.Second)) })
	if st := r.account(); st.State != "online" || st.Warning != "" {
		t.Errorf("%+v", st)
	}
}

// TestFollow_PinnedVersion is never followed.
func TestFollow_PinnedVersion(t *testing.T) {
	r := newVaultRig(t)
	old := r.account().KeyID
	_, _, version, err := hsm.ParseKeyURI(old)
	if err != nil {
		t.Fatal(err)
	}
	pinned, open := r.named("cmk", version), r.named("cmk", "")
	// Pinning the version in force is no rekey, nor is the opposite.
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Key: &pinned}); err != nil {
		t.Fatal(err)
	}
	r.do(t, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "cmk"})
	asked := time.Now()
	eventually(t, "three more checks", func() bool { return r.account().LastSuccess.After(asked.Add(2 * time.Second)) })
	if st := r.account(); st.KeyID != old || st.Warning != "" {
		t.Errorf("%+v", st)
	}
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Key: &open}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the version is followed", func() bool { return r.account().KeyID != old })

	// Back to the old version by its name; there it stays.
	if a, err := r.rekey("cmk", version); err != nil || a.Current().Wrapped.KeyID != old || len(a.PreviousKeys) != 1 || a.PreviousKeys[0].KeyID == old {
		t.Fatalf("%+v %v", a, err)
	}
	asked = time.Now()
	eventually(t, "three more checks", func() bool { return r.account().LastSuccess.After(asked.Add(2 * time.Second)) })
	if st := r.account(); st.KeyID != old {
		t.Errorf("%+v", st)
	}
}

// TestFollow_DaemonKilled while a version is taken over: the one before or the
// new one is in force, the volume is there with its data, and the next daemon
// takes over what is left.
func TestFollow_DaemonKilled(t *testing.T) {
	r := newVaultRig(t)
	if err := os.WriteFile(r.path("file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	const step = 60 * time.Millisecond
	for n := range 6 {
		old := r.account().KeyID
		_, _, version, err := hsm.ParseKeyURI(old)
		if err != nil {
			t.Fatal(err)
		}
		r.delay(t, step)
		encrypts := r.e.Requests("encrypt")
		r.do(t, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "cmk"})
		eventually(t, "the version is tried", func() bool { return r.e.Requests("encrypt") > encrypts })
		time.Sleep(time.Duration(n) * step / 2)
		r.kill()
		r.undelay(t)
		switch now := r.stored().Current().Wrapped.KeyID; now {
		case old:
			t.Logf("after %d half steps: the version before is in force", n)
		default:
			no := false // it is not needed
			r.do(t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Version: version, Enabled: &no})
			t.Logf("after %d half steps: the new version is in force", n)
		}
		r.daemon = startDaemon(t, r.dir)
		r.mustMount()
		if b, err := os.ReadFile(r.path("file")); err != nil || string(b) != "content" {
			t.Fatalf("after %d half steps: %q %v", n, b, err)
		}
		eventually(t, "the new version is in force and was reported", func() bool {
			e := r.events(account.AuditKeyVersionChanged)
			return r.account().KeyID != old && len(e) == n+1 && e[n].Detail["oldKeyVersion"] == version
		})
	}
}
