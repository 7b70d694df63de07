package account_test

import (
	"context"
	"errors"
	"testing"

	"cmkfs/account"
	"cmkfs/hsm"
)

// platformAccount returns an account without a customer's key, and who answers
// for its keys.
func platformAccount(t *testing.T) (*account.Account, vault) {
	t.Helper()
	agent := vault{"platform": true, "https://v/keys/k1": true, "https://v/keys/k2": true}
	a, err := account.New(context.Background(), "a", "", nil, hsm.Config{Source: hsm.SourcePlatform, Platform: &hsm.PlatformConfig{KeyFile: "/k"}}, agent)
	if err != nil {
		t.Fatal(err)
	}
	return a, agent
}

func sources(keys []account.AEKRecord) (all []string) {
	for _, k := range keys {
		all = append(all, k.Source)
	}
	return all
}

// TestAccount_Moves follows an account through rotations of both kinds of key
// and a transition: what new volumes are under, what the lease rests on, what is
// kept and what is dropped.
func TestAccount_Moves(t *testing.T) {
	ctx := context.Background()
	a, agent := platformAccount(t)
	if _, err := a.InTransition(); !errors.Is(err, hsm.NotConfigured) {
		t.Errorf("transition without a customer's key: %v", err)
	}
	must := func(b *account.Account, err error) {
		t.Helper()
		if err == nil {
			err = b.Validate()
		}
		if err != nil {
			t.Fatal(err)
		}
		a = b
	}
	none := func(string) (bool, error) { return false, nil }

	first := a.Current().ID
	must(a.Rotated(ctx, agent))
	if a.Current().ID == first || a.AEKFor(hsm.SourcePlatform).ID != a.Current().ID || len(a.LeaseKeys()) != 2 || a.Move.Kind != account.MoveRotate {
		t.Fatalf("rotated: %+v", a)
	}
	if !a.Leaving(*a.AEK(first)) || a.Leaving(*a.Current()) {
		t.Error("the old key and only it is left")
	}
	// The account gets a customer's key before the rotation is finished.
	must(a.Changed(ctx, account.Change{Key: azureKey("k1")}, none, agent))
	if a.Move == nil || len(a.LeaseKeys()) != 1 || a.Leaving(*a.Current()) {
		t.Fatalf("with a customer's key: %+v", a)
	}
	// A transition includes it.
	must(a.InTransition())
	if !a.Leaving(a.AEKs[0]) || !a.Leaving(a.AEKs[1]) || a.Leaving(a.AEKs[2]) {
		t.Fatalf("in transition: %+v", a)
	}
	// Another key while no volume is under the first one: it goes on there.
	must(a.Changed(ctx, account.Change{Key: azureKey("k2")}, none, agent))
	if a.Move == nil || a.Move.To != a.Current().ID || len(a.AEKs) != 3 {
		t.Fatalf("in transition to another key: %+v", a)
	}
	must(a.Moved(), nil)
	if a.Move != nil || len(a.AEKs) != 1 || a.AEKFor(hsm.SourcePlatform) != nil || a.KeySource() != hsm.SourceKeyVault {
		t.Fatalf("after the transition: %+v", a)
	}

	must(a.Rotated(ctx, agent))
	if got := sources(a.LeaseKeys()); len(got) != 2 || a.LeaseKeys()[1].ID != a.Current().ID {
		t.Fatalf("lease keys: %v", got)
	}
	// How the key is reached changes for both, and both are asked.
	reach := azureKey("k2")
	reach.Azure.PrivateEndpoint = "10.0.0.9"
	must(a.Changed(ctx, account.Change{Key: reach}, func(string) (bool, error) { return true, nil }, agent))
	for _, k := range a.AEKs {
		if k.Key.Azure.PrivateEndpoint != "10.0.0.9" {
			t.Errorf("%s is still reached the old way", k.ID)
		}
	}
	// A volume under the older one keeps the account from giving its key up.
	old := a.AEKs[0].ID
	oldUsed := func(id string) (bool, error) { return id == old, nil }
	if _, err := a.Changed(ctx, account.Change{Key: azureKey("k1")}, oldUsed, agent); !errors.Is(err, account.ErrRekey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := a.Changed(ctx, account.Change{Key: &hsm.Config{Source: hsm.SourcePlatform}}, oldUsed, agent); !errors.Is(err, account.ErrOneWay) {
		t.Errorf("the platform's: %v", err)
	}
	// Without volumes there is a way back, to a new platform-managed key.
	must(a.Changed(ctx, account.Change{Key: &hsm.Config{Source: hsm.SourcePlatform, Platform: &hsm.PlatformConfig{KeyFile: "/k"}}}, none, agent))
	if a.Move != nil || len(a.AEKs) != 1 || a.Current().Source != hsm.SourcePlatform || a.Current().ID == first {
		t.Errorf("without volumes: %+v", a)
	}
	agent["platform"] = false
	if _, err := a.Rotated(ctx, agent); hsm.KindOf(err) != hsm.KindDenied {
		t.Errorf("a key that cannot be used: %v", err)
	}
}

// TestAccount_Moves_Token: the same way to a token's key for old and new account
// keys.
func TestAccount_Moves_Token(t *testing.T) {
	ctx := context.Background()
	a, agent := platformAccount(t)
	agent["pkcs11:object=K"] = true
	inUse := func(string) (bool, error) { return true, nil }
	for _, step := range []func() (*account.Account, error){
		func() (*account.Account, error) {
			return a.Changed(ctx, account.Change{Key: tokenKey("pkcs11:object=K")}, inUse, agent)
		},
		func() (*account.Account, error) { return a.Rotated(ctx, agent) },
		func() (*account.Account, error) {
			return a.Changed(ctx, account.Change{Key: tokenKey("pkcs11:object=K?pin-source=file:/new")}, inUse, agent)
		},
	} {
		b, err := step()
		if err != nil {
			t.Fatal(err)
		}
		a = b
	}
	keys := a.LeaseKeys()
	if len(keys) != 2 {
		t.Fatalf("%d keys", len(keys))
	}
	for _, k := range keys {
		if k.Key.PKCS11.URI != "pkcs11:object=K?pin-source=file:/new" {
			t.Errorf("%s is reached by %s", k.ID, k.Key.PKCS11.URI)
		}
	}
}

func TestAccount_Validate_Move(t *testing.T) {
	a, _ := platformAccount(t)
	for _, m := range []account.KeyMove{{Kind: account.MoveRotate, To: "nowhere"}, {Kind: "sideways", To: a.Current().ID}} {
		a.Move = &m
		if a.Validate() == nil {
			t.Errorf("%+v is accepted", m)
		}
	}
}

func TestVolumeRecord_Needs(t *testing.T) {
	for _, c := range []struct {
		record account.VolumeRecord
		needs  bool
	}{
		{account.VolumeRecord{AEKID: "k"}, true},
		{account.VolumeRecord{AEKID: "new", FormerAEKID: "k"}, true},
		{account.VolumeRecord{AEKID: "new"}, false},
		{account.VolumeRecord{}, true}, // it was lost
	} {
		if got := c.record.Needs("k"); got != c.needs {
			t.Errorf("%+v: %v", c.record, got)
		}
	}
}
