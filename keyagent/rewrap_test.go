package keyagent_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkfs/crypto"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/hsm/hsmtest"
	"cmkfs/keyagent"
)

// rewrapped checks that a rewrapped account encryption key is the old one: it
// opens the volume key that was sealed under that.
func rewrapped(t *testing.T, c *keyagent.Client, from, to hsm.Config) (keyagent.AEK, hsm.Info) {
	t.Helper()
	a, err := c.NewAEK(t.Context(), from, "a")
	if err != nil {
		t.Fatal(err)
	}
	vol := [16]byte{7}
	v, err := c.NewVEK(t.Context(), from, "a", a, vol)
	if err != nil {
		t.Fatal(err)
	}
	b, info, err := c.Rewrap(t.Context(), from, "a", a, to)
	if err != nil {
		t.Fatal(err)
	}
	if hsm.SameKeyID(b.Wrapped.KeyID, a.Wrapped.KeyID) || !hsm.SameKeyID(b.Wrapped.KeyID, info.KeyID) {
		t.Errorf("from %s to %s, info %+v", a.Wrapped.KeyID, b.Wrapped.KeyID, info)
	}
	got, err := released(t, c, to, "a", b, vol, v)
	if vek, kerr := crypto.KeyFromBytes(got); err != nil || kerr != nil || !crypto.CheckCommit(vek, vol[:], v.Commitment) {
		t.Errorf("the volume key under the rewrapped key: %d bytes, %v", len(got), err)
	}
	return b, info
}

func TestAgent_Rewrap_Vault(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 0)
	named := func(name, version string) hsm.Config {
		azure := *key.Azure
		azure.KeyName, azure.KeyVersion = name, version
		return hsm.Config{Source: hsm.SourceKeyVault, Azure: &azure}
	}
	do(t, e, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "second"})
	b, info := rewrapped(t, c, key, named("second", ""))
	if info.Region != "westeurope" || info.PrincipalID == "" {
		t.Errorf("%+v", info)
	}
	// Nothing of the old key is needed any more.
	no := false
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &no})
	if _, err := c.Check(t.Context(), named("second", ""), "a", b); err != nil {
		t.Error(err)
	}

	// A new version, and back to the old one by its name.
	old, err := c.NewAEK(t.Context(), named("second", ""), "a")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Rewrap(t.Context(), named("second", ""), "a", old, named("second", ""))
	want(t, err, hsm.KindMisconfigured, hsm.ReasonSameKey)
	do(t, e, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "second"})
	fresh, _, err := c.Rewrap(t.Context(), named("second", ""), "a", old, named("second", ""))
	if err != nil || fresh.Wrapped.KeyID == old.Wrapped.KeyID {
		t.Fatalf("%+v %v", fresh, err)
	}
	_, _, version, err := hsm.ParseKeyURI(old.Wrapped.KeyID)
	if err != nil {
		t.Fatal(err)
	}
	back, _, err := c.Rewrap(t.Context(), named("second", ""), "a", fresh, named("second", version))
	if err != nil || back.Wrapped.KeyID != old.Wrapped.KeyID {
		t.Fatalf("%+v %v", back, err)
	}

	// Whatever Examine refuses.
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for reason, cmd := range map[string]emulator.Command{
		"KeyDisabled":  {Key: "disabled", Enabled: &no},
		"KeyExpired":   {Key: "expired", Expires: past},
		"KeyNotActive": {Key: "future", NotBefore: future},
		"KeyTooShort":  {Key: "short", Bits: 1024},
		"NotRSA":       {Key: "elliptic", Type: "EC"},
		"KeyNotFound":  {},
	} {
		name := "none"
		if cmd.Key != "" {
			cmd.Vault, cmd.Action, name = "demo", emulator.KeyCreate, cmd.Key
			do(t, e, cmd)
		}
		_, _, err := c.Rewrap(t.Context(), named("second", ""), "a", fresh, named(name, ""))
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", reason, err)
		}
	}

	// One that has expired may still give its place up.
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "second", Expires: past})
	do(t, e, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "young"})
	if _, _, err := c.Rewrap(t.Context(), named("second", ""), "a", fresh, named("young", "")); err != nil {
		t.Errorf("an expired key's successor: %v", err)
	}

	// The old key must open what it wrapped, and it must be that.
	_, _, err = c.Rewrap(t.Context(), named("second", ""), "other", fresh, named("second", version))
	want(t, err, hsm.KindMisconfigured, "WrongKeyMaterial")
	do(t, e, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "third"})
	do(t, e, emulator.Command{Action: emulator.Revoke, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"decrypt"}})
	_, _, err = c.Rewrap(t.Context(), named("second", ""), "a", fresh, named("third", ""))
	if hsm.KindOf(err) != hsm.KindDenied {
		t.Errorf("without decrypt: %v", err)
	}
	do(t, e, emulator.Command{Action: emulator.Grant, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"decrypt"}})
	do(t, e, emulator.Command{Action: emulator.Revoke, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"encrypt"}})
	_, _, err = c.Rewrap(t.Context(), named("second", ""), "a", fresh, named("third", ""))
	if hsm.KindOf(err) != hsm.KindDenied {
		t.Errorf("without encrypt: %v", err)
	}
}

// TestAgent_Rewrap_ManagedHSM with a role that may wrap and unwrap, no more.
func TestAgent_Rewrap_ManagedHSM(t *testing.T) {
	e, key := vaultKey(t)
	managed := true
	do(t, e, emulator.Command{Action: emulator.VaultCreate, Vault: "pool", Managed: &managed})
	do(t, e, emulator.Command{Action: emulator.Grant, Vault: "pool", Identity: emulator.SystemIdentity, Permissions: []string{"get", "wrapKey", "unwrapKey"}})
	named := func(name string) hsm.Config {
		do(t, e, emulator.Command{Action: emulator.KeyCreate, Vault: "pool", Key: name})
		azure := *key.Azure
		azure.VaultURI, azure.KeyName, azure.Permissions = "https://pool.managedhsm.azure.net/", name, "wrap-unwrap"
		return hsm.Config{Source: hsm.SourceKeyVault, Azure: &azure}
	}
	if _, info := rewrapped(t, client(t, 0), named("first"), named("second")); info.Type != hsm.TypeRSAHSM {
		t.Errorf("%+v", info)
	}
}

func TestAgent_Rewrap_Token(t *testing.T) {
	token := hsmtest.NewToken(t)
	token.AddKey(t, "second", "02", "rsa:3072", "--usage-decrypt")
	c := client(t, 0)
	named := func(uri string) hsm.Config {
		return hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: uri}}
	}
	good, second := named(token.URI("good")), named(token.URI("second"))
	rewrapped(t, c, good, second)
	rewrapped(t, c, second, good)

	a, err := c.NewAEK(t.Context(), good, "a")
	if err != nil {
		t.Fatal(err)
	}
	// The same key by other names.
	info, err := c.Examine(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(info.Token, "serial=")
	serial, _, _ := strings.Cut(after, ";")
	for _, uri := range []string{
		token.URI("good"),
		strings.Replace(token.URI("good"), "object=good", "id=%01", 1),
		strings.Replace(token.URI("good"), "token=drill", "serial="+serial, 1),
	} {
		_, _, err = c.Rewrap(t.Context(), good, "a", a, named(uri))
		want(t, err, hsm.KindMisconfigured, hsm.ReasonSameKey)
	}

	// Another token, also with the same label.
	other := token.AddToken(t, "drill")
	serials := strings.Replace(token.URI("good"), "token=drill", "serial="+serial, 1)
	if a, err = c.NewAEK(t.Context(), named(serials), "a"); err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Rewrap(t.Context(), named(serials), "a", a, named(strings.Replace(token.URI("other"), "token=drill", "serial="+other, 1)))
	want(t, err, hsm.KindMisconfigured, "OtherToken")
}

// TestAgent_Rewrap_Killed: an agent that dies in the middle has changed nothing,
// and the next one does it.
func TestAgent_Rewrap_Killed(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 0)
	do(t, e, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "second"})
	azure := *key.Azure
	azure.KeyName = "second"
	to := hsm.Config{Source: hsm.SourceKeyVault, Azure: &azure}
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"decrypt", "get", "encrypt"} {
		do(t, e, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: op, Delay: 10 * time.Second}})
		before := e.Requests(op)
		result := make(chan error)
		go func() {
			_, _, err := c.Rewrap(t.Context(), key, "a", a, to)
			result <- err
		}()
		eventually(t, func() bool { return e.Requests(op) > before })
		_ = syscall.Kill(c.PID(), syscall.SIGKILL)
		want(t, <-result, hsm.KindUnreachable, "AgentDied")
		do(t, e, emulator.Command{Action: emulator.FaultClear})
	}
	b, _, err := c.Rewrap(t.Context(), key, "a", a, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Check(t.Context(), to, "a", b); err != nil {
		t.Error(err)
	}
}
