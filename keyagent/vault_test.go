package keyagent_test

import (
	"testing"
	"time"

	"cmkfs/crypto"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
)

// vaultKey starts an emulator and returns its key's configuration. The agent
// inherits the identity endpoint.
func vaultKey(t *testing.T) (*emulator.Emulator, hsm.Config) {
	t.Helper()
	e, err := emulator.Start(emulator.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	for name, value := range e.Env() {
		t.Setenv(name, value)
	}
	for _, c := range []emulator.Command{
		{Action: emulator.VaultCreate, Vault: "demo"},
		{Action: emulator.KeyCreate, Vault: "demo", Key: "cmk"},
		{Action: emulator.Grant, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"get", "list", "encrypt", "decrypt"}},
	} {
		do(t, e, c)
	}
	return e, hsm.Config{Source: hsm.SourceKeyVault, Azure: &hsm.AzureConfig{
		VaultURI: "https://demo.vault.azure.net/", KeyName: "cmk", PrivateEndpoint: e.Endpoint(), CAFile: e.CA(),
	}}
}

func do(t *testing.T, e *emulator.Emulator, c emulator.Command) {
	t.Helper()
	if _, err := e.Do(c); err != nil {
		t.Fatalf("%s: %v", c.Action, err)
	}
}

func TestAgent_KeyVault(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 0)
	info, err := c.Examine(t.Context(), key)
	if err != nil || info.Bits != 2048 || info.RecoveryLevel != "Recoverable" || info.Region != "westeurope" {
		t.Fatalf("Examine = %+v, %v", info, err)
	}
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	vol := [16]byte{5}
	v, err := c.NewVEK(t.Context(), key, "a", a, vol)
	if err != nil {
		t.Fatal(err)
	}
	got, err := released(t, c, key, "a", a, vol, v)
	if vek, kerr := crypto.KeyFromBytes(got); err != nil || kerr != nil || !crypto.CheckCommit(vek, vol[:], v.Commitment) {
		t.Errorf("Release: %d bytes, %v", len(got), err)
	}
	keys, err := c.ListKeys(t.Context(), key)
	if err != nil || len(keys) != 1 {
		t.Errorf("ListKeys = %v, %v", keys, err)
	}

	// The check renews the lease as long as unwrapping works, and only then.
	set := emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Expires: time.Now().Add(-time.Hour)}
	do(t, e, set)
	if info, err := c.Check(t.Context(), key, "a", a); err != nil || info.Expires.IsZero() {
		t.Errorf("Check of an expired key = %+v, %v; want no error and the expiry", info, err)
	}
	_, err = c.Examine(t.Context(), key)
	want(t, err, hsm.KindDenied, "KeyExpired")
	no := false
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &no})
	_, err = c.Check(t.Context(), key, "a", a)
	want(t, err, hsm.KindDenied, "KeyDisabled")
	_, err = released(t, c, key, "a", a, vol, v)
	want(t, err, hsm.KindDenied, "KeyDisabled")
}

func TestAgent_KeyWithoutGet(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 0)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	do(t, e, emulator.Command{Action: emulator.Revoke, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"get"}})
	if _, err := c.Check(t.Context(), key, "a", a); err != nil {
		t.Errorf("the key still decrypts, but: %v", err)
	}
}

func TestAgent_NotRecoverableVault(t *testing.T) {
	e, key := vaultKey(t)
	do(t, e, emulator.Command{Action: emulator.VaultSet, Vault: "demo", RecoveryLevel: "Recoverable+Purgeable"})
	_, err := client(t, 0).Examine(t.Context(), key)
	want(t, err, hsm.KindMisconfigured, "NotRecoverable")
}

// A vault that does not answer costs its own call, not the agent.
func TestAgent_SilentVault(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 2*time.Second)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	do(t, e, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultBlackHole, Op: "decrypt"}})
	pid := c.PID()
	_, err = c.Check(t.Context(), key, "a", a)
	if hsm.KindOf(err) != hsm.KindUnreachable || err == nil {
		t.Errorf("got %v, want unreachable", err)
	}
	if c.PID() != pid {
		t.Error("the agent was replaced")
	}
	do(t, e, emulator.Command{Action: emulator.FaultClear})
	// One that goes silent after the answer that counts does not take it back.
	do(t, e, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultBlackHole, Op: "get"}})
	if _, err := c.Check(t.Context(), key, "a", a); err != nil {
		t.Errorf("Check with attributes that cannot be read: %v", err)
	}
}

// TestAgent_Check_NewerVersion: a check tells of the version that decrypts, and of
// the newest one beside it.
func TestAgent_Check_NewerVersion(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 0)
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := c.Check(t.Context(), key, "a", a); err != nil || info.KeyID != a.Wrapped.KeyID || info.Newer != nil {
		t.Errorf("%+v, %v", info, err)
	}
	no := false
	do(t, e, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "cmk", Enabled: &no})
	info, err := c.Check(t.Context(), key, "a", a)
	if err != nil || info.KeyID != a.Wrapped.KeyID || !info.Enabled || info.Newer == nil || info.Newer.Enabled || info.Newer.KeyID == info.KeyID || info.Newer.Bits != 2048 {
		t.Errorf("%+v, %v", info, err)
	}
	do(t, e, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultStatus, Op: "get", Status: 400}})
	if info, err := c.Check(t.Context(), key, "a", a); err != nil || info.KeyID != "" || info.Newer != nil {
		t.Errorf("without attributes: %+v, %v", info, err)
	}
}
