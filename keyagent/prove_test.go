package keyagent_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/keyagent"
)

// TestAgent_Prove: everything an account needs of its key is tried, and what is
// missing is named, all of it at once.
func TestAgent_Prove(t *testing.T) {
	e, key := vaultKey(t)
	var calls []keyagent.Call
	c := client(t, 0).Observed(func(c keyagent.Call) { calls = append(calls, c) })
	a, err := c.NewAEK(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Prove(t.Context(), key, "a", a)
	if got := steps(calls[len(calls)-1]); err != nil || got != "get encrypt decrypt decrypt" || info.PrincipalID == "" || info.KeyID != a.Wrapped.KeyID {
		t.Errorf("%s: %+v, %v", got, info, err)
	}

	permit := func(permissions ...string) {
		t.Helper()
		do(t, e, emulator.Command{Action: emulator.Revoke, Vault: "demo", Identity: emulator.SystemIdentity})
		do(t, e, emulator.Command{Action: emulator.Grant, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: permissions})
	}
	needed := []string{"get", "encrypt", "decrypt"}
	for mask := range 7 {
		granted, missing := []string{"list"}, []string{}
		for i, p := range needed {
			if mask&(1<<i) != 0 {
				granted = append(granted, p)
			} else {
				missing = append(missing, p)
			}
		}
		permit(granted...)
		_, err := c.Prove(t.Context(), key, "a", a)
		var refused *hsm.Error
		if !errors.As(err, &refused) || refused.Kind != hsm.KindDenied || refused.Op != missing[0] {
			t.Errorf("with %v: %v, want %s refused", granted, err, missing[0])
			continue
		}
		if all := "(refused: " + strings.Join(missing, ", ") + ")"; strings.Contains(refused.Message, "(refused:") != (len(missing) > 1) || len(missing) > 1 && !strings.Contains(refused.Message, all) {
			t.Errorf("with %v: %s, want %s", granted, refused.Message, all)
		}
	}
	permit(needed...)

	// The version in force is what counts, not a newer one; one that has expired
	// since still opens what is there, and is not asked for more.
	_, _, version, err := hsm.ParseKeyURI(a.Wrapped.KeyID)
	if err != nil {
		t.Fatal(err)
	}
	no := false
	do(t, e, emulator.Command{Action: emulator.KeyRotate, Vault: "demo", Key: "cmk"})
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &no})
	if _, err := c.Prove(t.Context(), key, "a", a); err != nil {
		t.Errorf("with a newer version that is disabled: %v", err)
	}
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Version: version, Expires: time.Now().Add(-time.Hour)})
	if _, err := c.Prove(t.Context(), key, "a", a); err != nil || steps(calls[len(calls)-1]) != "get decrypt" {
		t.Errorf("expired: %s, %v", steps(calls[len(calls)-1]), err)
	}
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Version: version, NoDates: true})

	// Another key's answer, another account's key, a deleted key.
	_, err = c.Prove(t.Context(), key, "b", a)
	want(t, err, hsm.KindMisconfigured, "WrongKeyMaterial")
	do(t, e, emulator.Command{Action: emulator.KeyDelete, Vault: "demo", Key: "cmk"})
	_, err = c.Prove(t.Context(), key, "a", a)
	want(t, err, hsm.KindDenied, "KeyNotFound")
	if strings.Contains(err.Error(), "refused:") {
		t.Errorf("a deleted key: %v", err)
	}
}

// TestAgent_Identify tells whose tokens they are without asking a vault.
func TestAgent_Identify(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 0)
	who := hsm.Config{Source: hsm.SourceKeyVault, Azure: &hsm.AzureConfig{}}
	info, err := c.Identify(t.Context(), who, "westeurope")
	seen, examineErr := c.Examine(t.Context(), key)
	if err != nil || examineErr != nil || info.PrincipalID == "" || info.PrincipalID != seen.PrincipalID || info.TenantID != seen.TenantID {
		t.Errorf("%+v, %v; the vault has seen %+v, %v", info, err, seen, examineErr)
	}
	if used := e.Used()["demo"][emulator.SystemIdentity]; !slices.Equal(used, []string{"decrypt", "encrypt", "get"}) {
		t.Errorf("the vault was asked for %v", used)
	}
	_, err = c.Identify(t.Context(), hsm.Config{Source: hsm.SourcePlatform}, "westeurope")
	want(t, err, hsm.KindMisconfigured, "KeySource")
}

// TestClient_Another_GetsItsOwnToken: the SDK keeps tokens for a whole process,
// so only another process gets another one.
func TestClient_Another_GetsItsOwnToken(t *testing.T) {
	e, key := vaultKey(t)
	c := client(t, 0)
	examine := func(c *keyagent.Client) {
		t.Helper()
		if _, err := c.Examine(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		before := e.Requests("token")
		another := c.Another()
		examine(another)
		if e.Requests("token") == before {
			t.Error("no token was asked for")
		}
		if err := another.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
