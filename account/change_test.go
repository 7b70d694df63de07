package account_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"cmkfs/account"
	"cmkfs/hsm"
)

// vault answers for keys by their name: it "wraps" a key by writing down which
// key did it, and unwraps what it wrapped while the key is enabled.
type vault map[string]bool

func keyOf(c hsm.Config) string {
	switch {
	case c.Azure != nil:
		return c.Azure.VaultURI + "keys/" + c.Azure.KeyName
	case c.PKCS11 != nil:
		return c.PKCS11.URI[:len("pkcs11:object=K")] // what comes after it says how to get there
	}
	return "platform"
}

func (v vault) Examine(_ context.Context, c hsm.Config) (hsm.Info, error) {
	if !v[keyOf(c)] {
		return hsm.Info{}, &hsm.Error{Kind: hsm.KindDenied, Reason: "KeyDisabled"}
	}
	info := hsm.Info{KeyID: keyOf(c), Enabled: true}
	if c.Azure != nil {
		info.Region = "westeurope"
	}
	return info, nil
}

func (v vault) NewAEK(_ context.Context, c hsm.Config, id string) (hsm.Wrapped, []byte, error) {
	return hsm.Wrapped{KeyID: keyOf(c), Algorithm: "test", Ciphertext: []byte(keyOf(c))}, []byte(id), nil
}

func (v vault) Check(ctx context.Context, k account.AEKRecord) (hsm.Info, error) {
	if !bytes.Equal(k.Wrapped.Ciphertext, []byte(keyOf(k.Key))) {
		return hsm.Info{}, &hsm.Error{Kind: hsm.KindMisconfigured, Reason: "WrongKey"}
	}
	return v.Examine(ctx, k.Key)
}

func (v vault) Prove(ctx context.Context, k account.AEKRecord) (hsm.Info, error) {
	return v.Check(ctx, k)
}

// Identify answers as the identity's endpoint; without an entry for it, it does
// not.
func (v vault) Identify(_ context.Context, c hsm.Config, _ string) (hsm.Info, error) {
	who := c.Azure.IdentityType + c.Azure.UserAssignedIdentity
	known, ok := v[who]
	switch {
	case !ok:
		return hsm.Info{}, &hsm.Error{Kind: hsm.KindUnreachable, Message: "no endpoint"}
	case !known:
		return hsm.Info{}, &hsm.Error{Kind: hsm.KindDenied, Reason: "IdentityRefused"}
	}
	return hsm.Info{PrincipalID: "oid of " + who}, nil
}

func (v vault) Rewrap(ctx context.Context, k account.AEKRecord, to hsm.Config) (hsm.Wrapped, hsm.Info, error) {
	info, err := v.Check(ctx, k)
	if err == nil {
		info, err = v.Examine(ctx, to)
	}
	if err == nil && info.KeyID == k.Wrapped.KeyID {
		err = &hsm.Error{Kind: hsm.KindMisconfigured, Reason: hsm.ReasonSameKey}
	}
	return hsm.Wrapped{KeyID: info.KeyID, Algorithm: "test", Ciphertext: []byte(keyOf(to))}, info, err
}

func azureKey(name string) *hsm.Config {
	return &hsm.Config{Source: hsm.SourceKeyVault, Azure: &hsm.AzureConfig{VaultURI: "https://v/", KeyName: name}}
}

func tokenKey(uri string) *hsm.Config {
	return &hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: uri}}
}

func TestAccount_Changed_Keys(t *testing.T) {
	ctx := context.Background()
	agent := vault{"platform": true, "https://v/keys/k1": true, "https://v/keys/k2": true, "https://v/keys/off": false, "pkcs11:object=K": true, "pkcs11:object=L": true}
	used := map[string]bool{}
	inUse := func(id string) (bool, error) { return used[id], nil }
	a, err := account.New(ctx, "a", "West Europe", nil, hsm.Config{Source: hsm.SourcePlatform, Platform: &hsm.PlatformConfig{KeyFile: "/k"}}, agent)
	if err != nil || a.Validate() != nil || a.KeySource() != hsm.SourcePlatform {
		t.Fatalf("new: %+v %v", a, err)
	}
	change := func(c account.Change) error {
		t.Helper()
		b, err := a.Changed(ctx, c, inUse, agent)
		if err == nil {
			if err := b.Validate(); err != nil {
				t.Fatal(err)
			}
			a = b
		}
		return err
	}
	if err := change(account.Change{Key: azureKey("off")}); hsm.KindOf(err) != hsm.KindDenied || len(a.AEKs) != 1 {
		t.Errorf("a disabled key: %v", err)
	}
	if err := change(account.Change{Key: azureKey("k1")}); err != nil || a.KeySource() != hsm.SourceKeyVault || a.Identity.Type != account.IdentitySystemAssigned {
		t.Fatalf("first key: %v %+v", err, a)
	}
	first := a.Current().ID
	if err := change(account.Change{Key: azureKey("k1")}); err != nil || a.Current().ID != first {
		t.Errorf("the same key again: %v", err)
	}
	if err := change(account.Change{Key: azureKey("k2")}); err != nil || a.Current().ID == first || len(a.AEKs) != 2 {
		t.Errorf("another key while none is used: %v", err)
	}
	used[a.Current().ID] = true
	for name, c := range map[string]account.Change{
		"another key":        {Key: azureKey("k1")},
		"another key source": {Key: tokenKey("pkcs11:object=K")},
	} {
		if err := change(c); !errors.Is(err, account.ErrRekey) {
			t.Errorf("%s while volumes use one: %v", name, err)
		}
	}
	if err := change(account.Change{Key: &hsm.Config{Source: hsm.SourcePlatform}}); !errors.Is(err, account.ErrOneWay) {
		t.Errorf("the platform's while volumes use one: %v", err)
	}
	user := &account.Identity{Type: account.IdentityUserAssigned, UserAssignedIdentity: "me"}
	if err := change(account.Change{Identity: user}); err != nil || a.Current().Key.Azure.UserAssignedIdentity != "me" {
		t.Errorf("identity: %v", err)
	}
	agent["https://v/keys/k2"] = false
	if err := change(account.Change{Identity: &account.Identity{Type: account.IdentitySystemAssigned}}); hsm.KindOf(err) != hsm.KindDenied || a.Identity != *user {
		t.Errorf("identity that the vault refuses: %v", err)
	}
	clear(used)
	if err := change(account.Change{Key: tokenKey("pkcs11:object=K")}); err != nil || a.KeySource() != hsm.SourcePKCS11 {
		t.Fatalf("token: %v", err)
	}
	used[a.Current().ID] = true
	if err := change(account.Change{Key: tokenKey("pkcs11:object=K?pin-source=file:/new")}); err != nil || a.Current().Key.PKCS11.URI != "pkcs11:object=K?pin-source=file:/new" {
		t.Errorf("another way to the same key: %v", err)
	}
	if err := change(account.Change{Key: tokenKey("pkcs11:object=L")}); !errors.Is(err, account.ErrRekey) {
		t.Errorf("another key of the token: %v", err)
	}
	clear(used)
	if err := change(account.Change{Key: &hsm.Config{Source: hsm.SourcePlatform}}); err != nil || a.KeySource() != hsm.SourcePlatform || len(a.AEKs) != 1 {
		t.Errorf("back to the platform: %v", err)
	}
}

func TestAccount_Changed_Settings(t *testing.T) {
	ctx := context.Background()
	a := newAccount("a")
	none := func(string) (bool, error) { return false, nil }
	agent := vault{"https://v/keys/k": true}
	north := "North Europe"
	b, err := a.Changed(ctx, account.Change{Location: &north, Tags: map[string]string{"k": "v"}, Policy: &account.PolicyChange{Recovery: account.RecoveryAutomatic}}, none, agent)
	if err != nil || b.Location != "northeurope" || b.Policy.Recovery != account.RecoveryAutomatic || b.Policy.CheckInterval != a.Policy.CheckInterval || a.Location != "westeurope" {
		t.Fatalf("%+v %v", b, err)
	}
	var k *hsm.Error
	if _, err := b.Changed(ctx, account.Change{Key: azureKey("k")}, none, agent); !errors.As(err, &k) || k.Reason != "RegionMismatch" {
		t.Errorf("vault elsewhere: %v", err)
	}
	mars := "mars"
	for name, c := range map[string]account.Change{
		"location": {Location: &mars},
		"policy":   {Policy: &account.PolicyChange{OutageGrace: 1}},
		"identity": {Identity: &account.Identity{Type: account.IdentityUserAssigned}},
		"type":     {Identity: &account.Identity{Type: "Nobody"}},
	} {
		if _, err := a.Changed(ctx, c, none, agent); !errors.Is(err, account.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAccount_View(t *testing.T) {
	a := newAccount("a")
	a.Identity = account.Identity{Type: account.IdentitySystemAssigned, PrincipalID: "p"}
	const version = "0123456789abcdef0123456789abcdef"
	a.AEKs = append(a.AEKs, account.AEKRecord{ID: "k2", Source: hsm.SourceKeyVault, Key: *azureKey("k"), Wrapped: hsm.Wrapped{KeyID: "https://acme.vault.azure.net/keys/k/" + version}})
	v := a.View(true, false)
	kv := v.Encryption.KeyVaultProperties
	if v.Encryption.KeySource != hsm.SourceKeyVault || kv == nil || kv.KeyVersion != version || kv.Status != account.KeyStatusInUse || *v.Encryption.Identity.PrincipalID != "p" {
		t.Errorf("%+v %+v", v, kv)
	}
	if s := a.View(true, true).Encryption.KeyVaultProperties.Status; s != account.KeyStatusError {
		t.Errorf("failing: %s", s)
	}
}
