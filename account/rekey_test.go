package account_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

// versions is a vault whose keys have numbered versions, the last of which is
// the newest; one in broken cannot be used.
type versions struct {
	vault
	newest map[string]int
	broken map[string]bool
	asked  []string
}

func versionID(name string, n int) string {
	return fmt.Sprintf("https://acme.vault.azure.net/keys/%s/%032x", name, n)
}

func (v *versions) Rewrap(_ context.Context, k account.AEKRecord, to hsm.Config) (hsm.Wrapped, hsm.Info, error) {
	id := versionID(to.Azure.KeyName, v.newest[to.Azure.KeyName])
	if to.Azure.KeyVersion != "" {
		id = "https://acme.vault.azure.net/keys/" + to.Azure.KeyName + "/" + to.Azure.KeyVersion
	}
	v.asked = append(v.asked, k.ID+" "+id)
	info := hsm.Info{KeyID: id, Region: "westeurope", PrincipalID: "me"}
	switch {
	case v.broken[id] || v.broken[k.ID]:
		return hsm.Wrapped{}, info, &hsm.Error{Kind: hsm.KindDenied, Reason: "KeyDisabled"}
	case id == k.Wrapped.KeyID:
		return hsm.Wrapped{}, info, &hsm.Error{Kind: hsm.KindMisconfigured, Reason: hsm.ReasonSameKey}
	}
	return hsm.Wrapped{KeyID: id, Algorithm: "test", Ciphertext: []byte(id)}, info, nil
}

func acmeKey(name, version string) hsm.Config {
	return hsm.Config{Source: hsm.SourceKeyVault, Azure: &hsm.AzureConfig{VaultURI: "https://acme.vault.azure.net/", KeyName: name, KeyVersion: version, PrivateEndpoint: "10.0.0.4"}}
}

// rekeyAccount has a platform-managed and two customer-managed account
// encryption keys, as in the middle of a rotation; both are under k's version 1.
func rekeyAccount() (*account.Account, *versions) {
	a := newAccount("a")
	a.Identity.Type = account.IdentitySystemAssigned
	for _, id := range []string{"old", "new"} {
		a.AEKs = append(a.AEKs, account.AEKRecord{
			ID: id, Source: hsm.SourceKeyVault, Key: acmeKey("k", ""), Commitment: []byte(id),
			Wrapped: hsm.Wrapped{KeyID: versionID("k", 1), Ciphertext: []byte("x")},
		})
	}
	return a, &versions{newest: map[string]int{"k": 1, "l": 1}, broken: map[string]bool{}}
}

func inForce(a *account.Account) []string {
	var ids []string
	for _, k := range a.AEKs {
		ids = append(ids, k.Wrapped.KeyID)
	}
	return ids
}

func previous(a *account.Account) []string {
	var ids []string
	for _, p := range a.PreviousKeys {
		ids = append(ids, p.KeyID)
	}
	return ids
}

func TestAccount_Rekeyed(t *testing.T) {
	ctx := context.Background()
	a, v := rekeyAccount()
	was := *a
	other := acmeKey("l", "")
	other.Azure.PrivateEndpoint, other.Azure.IdentityType = "10.6.6.6", "somebody"
	b, err := a.Rekeyed(ctx, other, v)
	if err != nil || b.Validate() != nil {
		t.Fatal(err)
	}
	if got := inForce(b); !slices.Equal(got, []string{"platform", versionID("l", 1), versionID("l", 1)}) {
		t.Errorf("in force: %v", got)
	}
	for i, k := range b.AEKs {
		if k.ID != a.AEKs[i].ID || !reflect.DeepEqual(k.Commitment, a.AEKs[i].Commitment) {
			t.Errorf("record %d: %+v", i, k)
		}
		if k.Source == hsm.SourceKeyVault && (k.Key.Azure.PrivateEndpoint != "10.0.0.4" || k.Key.Azure.IdentityType != "" || k.Key.Azure.KeyName != "l") {
			t.Errorf("the key is asked otherwise: %+v", k.Key.Azure)
		}
	}
	if got := previous(b); !slices.Equal(got, []string{versionID("k", 1)}) || b.Identity.PrincipalID != "me" {
		t.Errorf("previous %v, identity %+v", got, b.Identity)
	}
	if !reflect.DeepEqual(*a, was) || len(a.PreviousKeys) != 0 || a.AEKs[1].Wrapped.KeyID != versionID("k", 1) {
		t.Error("the account itself has changed")
	}
	// There and back: what is in force is no former key.
	c, err := b.Rekeyed(ctx, acmeKey("k", ""), v)
	if err != nil || !slices.Equal(previous(c), []string{versionID("l", 1)}) {
		t.Errorf("%v %v", previous(c), err)
	}
	// Only so many are remembered.
	for n := 2; n < 20; n++ {
		v.newest["k"] = n
		if c, err = c.Followed(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	if got := previous(c); len(got) != 10 || got[9] != versionID("k", 18) {
		t.Errorf("previous %v", got)
	}
}

func TestAccount_Rekeyed_AllOrNothing(t *testing.T) {
	ctx := context.Background()
	a, v := rekeyAccount()
	v.broken["new"] = true // the second one
	if b, err := a.Rekeyed(ctx, acmeKey("l", ""), v); hsm.KindOf(err) != hsm.KindDenied || b != nil || len(v.asked) != 2 {
		t.Errorf("%+v %v after %v", b, err, v.asked)
	}
	v.broken = map[string]bool{}
	// One of them got there before, for example in a rotation after a rekey.
	a.AEKs[2].Wrapped.KeyID, a.AEKs[2].Key = versionID("l", 1), acmeKey("l", "")
	if _, err := a.Rekeyed(ctx, acmeKey("l", ""), v); !errors.Is(err, account.ErrSameKey) {
		t.Errorf("the current key: %v", err)
	}
	b, err := a.Rekeyed(ctx, acmeKey("k", ""), v)
	if err != nil || !slices.Equal(inForce(b)[1:], []string{versionID("k", 1), versionID("k", 1)}) || !slices.Equal(previous(b), []string{versionID("l", 1)}) {
		t.Errorf("%v %v", b, err)
	}
}

func TestAccount_Rekeyed_Refused(t *testing.T) {
	ctx := context.Background()
	a, v := rekeyAccount()
	for name, c := range map[string]struct {
		account *account.Account
		key     hsm.Config
		want    error
		says    string
	}{
		"the same key":         {a, acmeKey("k", ""), account.ErrSameKey, "must be different from the current key"},
		"the same version":     {a, acmeKey("k", fmt.Sprintf("%032x", 1)), account.ErrSameKey, "must be different from the current key"},
		"another vault":        {a, *azureKey("k"), account.ErrOtherVault, "Changing key vaults isn't supported"},
		"a token":              {a, *tokenKey("pkcs11:object=K"), account.ErrOtherVault, "Changing key vaults isn't supported"},
		"the platform's":       {a, hsm.Config{Source: hsm.SourcePlatform}, account.ErrOtherVault, "Changing key vaults isn't supported"},
		"without a customer's": {newAccount("b"), acmeKey("l", ""), account.ErrNoCustomerKey, "account b has no customer-managed key"},
	} {
		if _, err := c.account.Rekeyed(ctx, c.key, v); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a.Location = "northeurope"
	if _, err := a.Rekeyed(ctx, acmeKey("l", ""), v); !errors.Is(err, hsm.RegionMismatch) {
		t.Errorf("another region: %v", err)
	}
}

func TestAccount_Outdated(t *testing.T) {
	now := time.Now()
	newest := func(name string, n int) hsm.Info { return hsm.Info{KeyID: versionID(name, n)} }
	a, _ := rekeyAccount()
	for name, c := range map[string]struct {
		change func(a *account.Account)
		info   hsm.Info
		want   string
	}{
		"the version in force": {nil, newest("k", 1), ""},
		"a new version":        {nil, newest("k", 2), versionID("k", 2)},
		"another key":          {nil, newest("l", 2), ""},
		"nothing known":        {nil, hsm.Info{}, ""},
		"no version":           {nil, hsm.Info{KeyID: "https://acme.vault.azure.net/keys/k"}, ""},
		"a token's key":        {nil, hsm.Info{KeyID: "pkcs11:token=T;object=K"}, ""},
		"one record is behind": {func(a *account.Account) { a.AEKs[2].Wrapped.KeyID = versionID("k", 2) }, newest("k", 2), versionID("k", 2)},
		"none is behind": {func(a *account.Account) {
			a.AEKs[1].Wrapped.KeyID, a.AEKs[2].Wrapped.KeyID = versionID("k", 2), versionID("k", 2)
		}, newest("k", 2), ""},
		"pinned": {func(a *account.Account) { a.AEKs[1].Key, a.AEKs[2].Key = acmeKey("k", "1"), acmeKey("k", "1") }, newest("k", 2), ""},
		"replaced a while ago": {func(a *account.Account) {
			a.PreviousKeys = []account.PreviousKey{{KeyID: versionID("k", 2), ReplacedAt: now.Add(-2 * time.Hour)}}
		}, newest("k", 2), versionID("k", 2)},
		"replaced just now": {func(a *account.Account) {
			a.PreviousKeys = []account.PreviousKey{{KeyID: versionID("k", 2), ReplacedAt: now.Add(-time.Minute)}}
		}, newest("k", 2), ""},
		"platform-managed alone": {func(a *account.Account) { a.AEKs = a.AEKs[:1] }, newest("k", 2), ""},
	} {
		b := *a
		b.AEKs = slices.Clone(a.AEKs)
		if c.change != nil {
			c.change(&b)
		}
		if got := b.Outdated(c.info, now); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAccount_Followed(t *testing.T) {
	ctx := context.Background()
	a, v := rekeyAccount()
	if _, err := a.Followed(ctx, v); !errors.Is(err, account.ErrSameKey) {
		t.Errorf("nothing to follow: %v", err)
	}
	v.newest["k"] = 2
	b, err := a.Followed(ctx, v)
	if err != nil || !slices.Equal(inForce(b)[1:], []string{versionID("k", 2), versionID("k", 2)}) {
		t.Fatalf("%v %v", b, err)
	}
	view := b.View(true, false).Encryption.PreviousKeys
	if len(view) != 1 || view[0].KeyID != versionID("k", 1) || len(view[0].NeededBy) != 0 {
		t.Errorf("%+v", view)
	}
	// A record that was restored from a backup still needs it.
	b.AEKs[1].Wrapped.KeyID = versionID("k", 1)
	if view := b.View(true, false).Encryption.PreviousKeys; !slices.Equal(view[0].NeededBy, []string{"old"}) {
		t.Errorf("%+v", view)
	}
}

// TestAccount_Changed_Pinning: a version may be pinned, and let go, without a
// rekey, and nothing else may.
func TestAccount_Changed_Pinning(t *testing.T) {
	ctx := context.Background()
	a, v := rekeyAccount()
	v.vault = vault{"https://acme.vault.azure.net/keys/k": true, "https://acme.vault.azure.net/keys/l": true}
	for i := range a.AEKs[1:] {
		a.AEKs[1+i].Wrapped.Ciphertext = []byte("https://acme.vault.azure.net/keys/k")
	}
	used := func(string) (bool, error) { return true, nil }
	first := fmt.Sprintf("%032x", 1)
	for _, version := range []string{first, "", first, ""} {
		key := acmeKey("k", version)
		b, err := a.Changed(ctx, account.Change{Key: &key}, used, v)
		if err != nil || b.Current().Key.Azure.KeyVersion != version || b.AEKs[1].Key.Azure.KeyVersion != version || b.Current().Wrapped.KeyID != versionID("k", 1) {
			t.Fatalf("version %q: %+v %v", version, b, err)
		}
		a = b
	}
	second := acmeKey("k", fmt.Sprintf("%032x", 2))
	if _, err := a.Changed(ctx, account.Change{Key: &second}, used, v); !errors.Is(err, account.ErrRekey) {
		t.Errorf("another version: %v", err)
	}
}

// TestAudit_Replaced: a key that became a former one is reported once, whatever
// was restarted in between, and again if it becomes one again.
func TestAudit_Replaced(t *testing.T) {
	ctx := context.Background()
	d, err := account.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	a, v := rekeyAccount()
	if err := d.CreateAccount(a); err != nil {
		t.Fatal(err)
	}
	open := func() *account.Audit {
		t.Helper()
		l, err := d.OpenAudit("a", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	reported := func() (all []account.Event) {
		t.Helper()
		if err := d.Events("a", 0, func(e account.Event) error { all = append(all, e); return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	log := open()
	log.Replaced(a)
	if e := reported(); len(e) != 0 {
		t.Errorf("nothing was replaced: %+v", e)
	}
	v.newest["k"] = 2
	b, err := a.Followed(ctx, v)
	if err != nil {
		t.Fatal(err)
	}
	log.Close() // the crash comes between storing the record and saying so
	log = open()
	log.Replaced(b)
	log.Replaced(b)
	e := reported()
	if len(e) != 1 || e[0].Kind != account.AuditKeyVersionChanged || e[0].KeyID != versionID("k", 2) ||
		e[0].Detail["oldKeyVersion"] != fmt.Sprintf("%032x", 1) || e[0].Detail["newKeyVersion"] != fmt.Sprintf("%032x", 2) {
		t.Fatalf("%+v", e)
	}
	if b, err = b.Rekeyed(ctx, acmeKey("l", ""), v); err != nil {
		t.Fatal(err)
	}
	log.Replaced(b)
	log.Close()
	log = open()
	defer log.Close()
	log.Replaced(b)
	if e = reported(); len(e) != 2 || e[1].Kind != account.AuditAccountRekeyed || e[1].KeyID != versionID("l", 1) || e[1].Detail["oldKeyId"] != versionID("k", 2) {
		t.Fatalf("%+v", e)
	}
	// There, back, and there again, a second later.
	b.PreviousKeys[1].ReplacedAt = b.PreviousKeys[1].ReplacedAt.Add(time.Second)
	log.Replaced(b)
	if e = reported(); len(e) != 3 || e[2].Detail["oldKeyId"] != versionID("k", 2) {
		t.Fatalf("%+v", e)
	}
}
