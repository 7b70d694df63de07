package supervisor_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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

func (r *vaultRig) rekey(name, version string) (account.Account, error) {
	return r.RekeyAccount(r.ctx, "acct", api.Rekey{Key: r.named(name, version)})
}

// TestRekey_UnderLoad: programs notice nothing of it, the lease rests on the new
// key at its next check, and the old key may be disabled.
func TestRekey_UnderLoad(t *testing.T) {
	r := newVaultRig(t)
	for _, name := range []string{"k0", "k1", "k2"} {
		r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: name})
	}
	before := r.stored()
	loadtest.Prove(t, func(n int) loadtest.Report {
		return loadtest.Measure(t, r.mount, func() {
			old := r.account().KeyID
			a, err := r.rekey(fmt.Sprint("k", n), "")
			if err != nil {
				t.Fatal(err)
			}
			if id := a.Current().Wrapped.KeyID; id == old || !strings.Contains(id, fmt.Sprint("/k", n, "/")) || r.account().KeyID != id {
				t.Errorf("%s after %s, status has %s", id, old, r.account().KeyID)
			}
			_, oldName, _, err := hsm.ParseKeyURI(old)
			if err != nil {
				t.Fatal(err)
			}
			no := false
			r.do(t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: oldName, Enabled: &no})
			asked := time.Now()
			eventually(t, "two checks with the new key", func() bool { return r.account().LastSuccess.After(asked.Add(time.Second)) })
			if st := r.account(); st.State != "online" {
				t.Errorf("%+v", st)
			}
		})
	})
	after := r.stored()
	if b, a := before.Current(), after.Current(); a.ID != b.ID || !reflect.DeepEqual(a.Commitment, b.Commitment) || a.Key.Azure.PrivateEndpoint != b.Key.Azure.PrivateEndpoint {
		t.Errorf("before %+v, after %+v", b, a)
	}
	if v := after.View(true, false).Encryption.PreviousKeys; len(v) == 0 || v[0].KeyID != before.Current().Wrapped.KeyID || v[0].ReplacedAt.IsZero() || len(v[0].NeededBy) != 0 {
		t.Errorf("previous keys %+v", v)
	}
	if e := r.events(account.AuditAccountRekeyed); len(e) == 0 || e[0].Detail["oldKeyId"] != before.Current().Wrapped.KeyID {
		t.Errorf("events %+v", e)
	}
}

// TestRekey_Refused: one sentence each, and account.json stays as it is.
func TestRekey_Refused(t *testing.T) {
	r := newVaultRig(t)
	r.do(t, emulator.Command{Action: emulator.VaultCreate, Vault: "else"})
	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "else", Key: "cmk"})
	r.do(t, emulator.Command{Action: emulator.Grant, Vault: "else", Identity: emulator.SystemIdentity, Permissions: []string{"get", "encrypt", "decrypt"}})
	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "short", Bits: 1024})
	if _, err := r.CreateAccount(r.ctx, api.CreateAccount{Name: "plain"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dir, "accounts", "acct", "account.json")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := r.named("cmk", "")
	elsewhere.Azure.VaultURI = "https://else.vault.azure.net/"
	_, _, version, err := hsm.ParseKeyURI(r.account().KeyID)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		account string
		key     hsm.Config
		want    string
		code    api.Code
	}{
		{"acct", *r.key(), "The chosen key must be different from the current key", api.CodeInvalid},
		{"acct", r.named("cmk", version), "The chosen key must be different from the current key", api.CodeInvalid},
		{"acct", elsewhere, "Changing key vaults isn't supported", api.CodeInvalid},
		{"acct", hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: "pkcs11:token=t;object=o?module-path=/m"}}, "Changing key vaults isn't supported", api.CodeInvalid},
		{"acct", hsm.Config{Source: hsm.SourcePlatform}, "Changing key vaults isn't supported", api.CodeInvalid},
		{"acct", r.named("none", ""), "The operation failed because the specified key vault key was not found", api.CodeDenied},
		{"acct", r.named("short", ""), "fewer than 2048 bits", api.CodeMisconfigured},
		{"plain", *r.key(), "account plain has no customer-managed key", api.CodeInvalid},
		{"none", *r.key(), "there is no account", api.CodeNotFound},
	} {
		_, err := r.RekeyAccount(r.ctx, c.account, api.Rekey{Key: c.key})
		var e *api.Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s %+v: got %v, want %s", c.account, c.key, err, c.want)
		}
	}
	if is, err := os.ReadFile(path); err != nil || string(is) != string(was) {
		t.Errorf("account.json has changed: %v\n%s", err, is)
	}
}

// TestRekey_DaemonKilled at every step: the old or the new key is in force
// afterwards, the volume is there with its data, and another try succeeds.
func TestRekey_DaemonKilled(t *testing.T) {
	r := newVaultRig(t)
	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "other"})
	if err := os.WriteFile(r.path("file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	names := []string{"cmk", "other"}
	current := 0
	forced := func() int {
		id := r.stored().Current().Wrapped.KeyID
		for i, n := range names {
			if strings.Contains(id, "/keys/"+n+"/") {
				return i
			}
		}
		t.Fatalf("key %s", id)
		return -1
	}
	const step = 60 * time.Millisecond
	var oldInForce, newInForce, changed int
	round := func(what string, kill func()) {
		r.delay(t, step)
		done := make(chan error, 1)
		client := r.daemon.Client
		go func() {
			_, err := client.RekeyAccount(r.ctx, "acct", api.Rekey{Key: r.named(names[1-current], "")})
			done <- err
		}()
		kill()
		r.kill()
		err := <-done
		r.undelay(t)
		was := current
		current = forced()
		changes := len(r.events(account.AuditAccountRekeyed))
		switch {
		case current == was:
			oldInForce++
			if err == nil {
				t.Errorf("%s: it was answered, and the old key is in force", what)
			}
		default:
			newInForce++
			changed++
		}
		// What was in force before the kill is not needed if it is not now.
		no, yes := false, true
		r.do(t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: names[1-current], Enabled: &no})
		r.daemon = startDaemon(t, r.dir)
		r.mustMount()
		if b, err := os.ReadFile(r.path("file")); err != nil || string(b) != "content" {
			t.Fatalf("%s: %q %v", what, b, err)
		}
		// The audit log has every change, if only after the restart.
		if n := len(r.events(account.AuditAccountRekeyed)); n != changed {
			t.Errorf("%s: %d changes are in the audit log, %d before the restart, want %d", what, n, changes, changed)
		}
		if left, _ := filepath.Glob(filepath.Join(r.dir, "accounts", "acct", ".*")); len(left) > 0 {
			t.Errorf("%s: left over %v", what, left)
		}
		r.do(t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: names[1-current], Enabled: &yes})
	}
	for n := range 9 { // of five operations of the vault, with what is between them
		round(fmt.Sprint("after ", n, " steps"), func() { time.Sleep(time.Duration(n) * step * 3 / 4) })
	}
	// Around the moment in which the record is stored: the last decrypt is done.
	for n := range 8 {
		round(fmt.Sprint("while storing ", n), func() {
			path := filepath.Join(r.dir, "accounts", "acct")
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
				if n%2 == 0 {
					if left, _ := filepath.Glob(filepath.Join(path, ".*")); len(left) > 0 {
						break // the temporary file is there
					}
				} else if forced() != current {
					break // it was renamed
				}
			}
			time.Sleep(time.Duration(n/2) * 300 * time.Microsecond)
		})
	}
	t.Logf("the old key stayed in force %d times, the new one came into force %d times", oldInForce, newInForce)
	if oldInForce == 0 || newInForce == 0 {
		t.Error("the kills did not come at different steps")
	}
	if _, err := r.rekey(names[1-current], ""); err != nil {
		t.Error(err)
	}
}

// TestRekey_KeyAgentKilled: the command says so, everything stays as it was,
// and another try succeeds.
func TestRekey_KeyAgentKilled(t *testing.T) {
	r := newVaultRig(t)
	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "other"})
	old := r.account().KeyID
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "encrypt", Delay: 4 * time.Second}})
	before := r.e.Requests("encrypt")
	done := make(chan error, 1)
	go func() {
		_, err := r.rekey("other", "")
		done <- err
	}()
	eventually(t, "the new key is asked to encrypt", func() bool { return r.e.Requests("encrypt") > before })
	for _, pid := range children(t, r.cmd.Process.Pid, "key-agent") {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	var e *api.Error
	if err := <-done; !errors.As(err, &e) || e.Code != api.CodeUnreachable || e.Reason != "AgentDied" {
		t.Errorf("%v", err)
	}
	r.undelay(t)
	if id := r.account().KeyID; id != old || r.stored().Current().Wrapped.KeyID != old {
		t.Errorf("the key is %s", id)
	}
	if a, err := r.rekey("other", ""); err != nil || a.Current().Wrapped.KeyID == old {
		t.Errorf("%v", err)
	}
	if v := r.volume(); v.State != api.VolumeOnline || v.Restarts != 0 {
		t.Errorf("%+v", v)
	}
}

// TestRekey_OldKeyDisabledAtOnce: what asked the old key before the rekey and
// is answered after it is asked again with the new one.
func TestRekey_OldKeyDisabledAtOnce(t *testing.T) {
	for name, begin := range map[string]func(*vaultRig) (end func() error){
		"a check": func(r *vaultRig) func() error {
			return func() error {
				for _, e := range r.events(account.AuditStateChanged) {
					// That it is late is shown; it must not count as a refusal.
					if e.To == string(account.StateDegraded) && e.Detail["cause"] != string(account.EventUnanswered) {
						return fmt.Errorf("%+v", e)
					}
				}
				return nil
			}
		},
		"a mount": func(r *vaultRig) func() error {
			done := make(chan error, 1)
			go func() {
				_, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: r.mount})
				done <- err
			}()
			return func() error { return <-done }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newVaultRig(t)
			if name == "a mount" {
				if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
					t.Fatal(err)
				}
				if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Policy: &account.PolicyChange{CheckInterval: account.Duration(time.Minute)}}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(1500 * time.Millisecond) // a check that was under way is over
			}
			r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "other"})
			// One decrypt, the next, is answered late and as the key is then.
			r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "decrypt", Delay: 3 * time.Second, Count: 1}})
			before := r.e.Requests("decrypt")
			end := begin(r)
			eventually(t, "the old key is asked", func() bool { return r.e.Requests("decrypt") > before })
			if _, err := r.rekey("other", ""); err != nil {
				t.Fatal(err)
			}
			no := false
			r.do(t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &no})
			asked := time.Now()
			if name == "a check" {
				eventually(t, "a check with the new key", func() bool { return r.account().LastCheck.After(asked.Add(time.Second)) })
			}
			if err := end(); err != nil {
				t.Error(err)
			}
			if st := r.account(); st.State != "online" {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestRekey_TokenUnderLoad: the same with keys of a PKCS#11 token.
func TestRekey_TokenUnderLoad(t *testing.T) {
	token := hsmtest.NewToken(t)
	token.AddKey(t, "second", "02", "rsa:2048", "--usage-decrypt")
	r := newRigWithoutVolume(t)
	key := func(object string) hsm.Config {
		return hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: token.URI(object)}}
	}
	good := key("good")
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Key: &good, Policy: &account.PolicyChange{CheckInterval: account.Duration(time.Second)}}); err != nil {
		t.Fatal(err)
	}
	r.addVolume()
	names := []string{"second", "good"}
	loadtest.Prove(t, func(n int) loadtest.Report {
		return loadtest.Measure(t, r.mount, func() {
			a, err := r.RekeyAccount(r.ctx, "acct", api.Rekey{Key: key(names[n%2])})
			if err != nil || !strings.Contains(a.Current().Wrapped.KeyID, "object="+names[n%2]) {
				t.Fatalf("%+v %v", a, err)
			}
			asked := time.Now()
			eventually(t, "two checks with the new key", func() bool { return r.account().LastSuccess.After(asked.Add(time.Second)) })
		})
	})
	if st := r.account(); st.State != "online" || r.volume().Restarts != 0 {
		t.Errorf("%+v", st)
	}
}

// TestRekey_RotationUnfinished: while volumes are under an old and a new account
// encryption key, another customer's key takes over both, and so does a new
// version of that; the rotation is finished afterwards.
func TestRekey_RotationUnfinished(t *testing.T) {
	r := newMoveRig(t)
	r.useKey()
	if _, err := r.TransitionToCMK(r.ctx, "acct", nil); err != nil {
		t.Fatal(err)
	}
	d, err := account.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	super := filepath.Join(d.VolumeDir("acct", "away"), "superblock")
	good, err := os.ReadFile(super)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(super, good[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RotateKey(r.ctx, "acct", nil); err == nil {
		t.Fatal("a volume without its superblock was moved")
	}
	inForce := func() string {
		t.Helper()
		a := r.stored()
		if len(a.AEKs) != 2 || a.Move == nil || a.AEKs[0].Wrapped.KeyID != a.AEKs[1].Wrapped.KeyID {
			t.Fatalf("move %+v, keys %+v", a.Move, a.AEKs)
		}
		return a.AEKs[0].Wrapped.KeyID
	}
	first := inForce()
	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "other"})
	if _, err := r.rekey("other", ""); err != nil {
		t.Fatal(err)
	}
	second := inForce()
	r.enable(false)
	r.do(t, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "other"})
	eventually(t, "the new version is followed", func() bool { return r.account().KeyID != second })
	third := inForce()
	if first == second || second == third {
		t.Errorf("%s, %s, %s", first, second, third)
	}
	if p := r.stored().PreviousKeys; len(p) != 2 || p[0].KeyID != first || p[1].KeyID != second {
		t.Errorf("%+v", p)
	}
	if err := os.WriteFile(super, good, 0o600); err != nil {
		t.Fatal(err)
	}
	r.waitMoved(hsm.SourceKeyVault)
	r.allReadable()
}

// TestRekey_VaultLies: whatever a vault answers, nothing is stored that the new
// key does not open.
func TestRekey_VaultLies(t *testing.T) {
	r := newVaultRig(t)
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Policy: &account.PolicyChange{CheckInterval: account.Duration(time.Minute)}}); err != nil {
		t.Fatal(err)
	}
	r.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "other"})
	time.Sleep(1500 * time.Millisecond) // a check that was under way is over
	path := filepath.Join(r.dir, "accounts", "acct", "account.json")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, meanwhile func()) {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			_, err := r.rekey("other", "")
			done <- err
		}()
		meanwhile()
		err := <-done
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeMisconfigured && e.Code != api.CodeUnreachable {
			t.Errorf("%s: %v", what, err)
		}
		if is, err := os.ReadFile(path); err != nil || string(is) != string(was) {
			t.Fatalf("%s: account.json has changed: %v\n%s", what, err, is)
		}
		r.undelay(t)
	}
	for _, kind := range []string{emulator.FaultGarbage, emulator.FaultWrongKey, emulator.FaultTruncate, emulator.FaultHuge} {
		for _, op := range []string{"get", "encrypt", "decrypt"} {
			if kind == emulator.FaultWrongKey && op == "get" {
				continue // it has no such bytes
			}
			r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: kind, Op: op}})
			refused(kind+" "+op, func() {})
		}
	}
	// Only the last answer, which is to prove that the new key opens what is
	// about to be stored.
	r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: "encrypt", Delay: time.Second}})
	before := r.e.Requests("encrypt")
	refused("wrong-key of the proof", func() {
		eventually(t, "the new key is asked", func() bool { return r.e.Requests("encrypt") > before })
		r.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultWrongKey, Op: "decrypt"}})
	})
	if _, err := r.rekey("other", ""); err != nil {
		t.Error(err)
	}
}
