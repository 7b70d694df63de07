package account_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"cmkfs/account"
	"cmkfs/hsm"
)

// asks answers for one vault key and remembers who asked; refused are the
// identities that the vault refuses.
type asks struct {
	vault
	refused map[string]bool
	asked   []string
}

func (a *asks) Prove(ctx context.Context, k account.AEKRecord) (hsm.Info, error) {
	who := k.Key.Azure.IdentityType + k.Key.Azure.UserAssignedIdentity
	a.asked = append(a.asked, who+" "+k.ID)
	if a.refused[who] {
		return hsm.Info{}, &hsm.Error{Op: "encrypt", Kind: hsm.KindDenied, Reason: "ForbiddenByPolicy"}
	}
	info := hsm.Info{PrincipalID: "oid of " + who, ClientID: "client of " + who, TenantID: "tenant", Region: "westeurope"}
	if k.Key.Azure.FederatedClientID != "" {
		info = hsm.Info{PrincipalID: "oid of application", Voucher: hsm.Principal{ObjectID: info.PrincipalID, ClientID: info.ClientID, TenantID: info.TenantID}}
	}
	return info, nil
}

// opaque has tokens that do not say whose they are.
type opaque struct{ vault }

func (opaque) Identify(context.Context, hsm.Config, string) (hsm.Info, error) { return hsm.Info{}, nil }

func vaultAccount() *account.Account {
	a := newAccount("a")
	a.Identity = account.Identity{Type: account.IdentitySystemAssigned, PrincipalID: "old"}
	for _, id := range []string{"older", "newest"} { // two, as while a rotation is not finished
		a.AEKs = append(a.AEKs, account.AEKRecord{ID: id, Source: hsm.SourceKeyVault, Key: *azureKey("k"), Wrapped: hsm.Wrapped{KeyID: "https://v/keys/k", Ciphertext: []byte("x")}, Commitment: []byte("c")})
	}
	return a
}

func inUse(string) (bool, error) { return true, nil }

// Before there is a vault, a token tells whom to permit there.
func TestAccount_Identity_BeforeTheVault(t *testing.T) {
	a := newAccount("a")
	a.Identity.Type = account.IdentityNone
	system := &account.Identity{Type: account.IdentitySystemAssigned}
	b, err := a.Changed(t.Context(), account.Change{Identity: system}, inUse, vault{"SystemAssigned": true})
	if err != nil || b.Identity.PrincipalID != "oid of SystemAssigned" || b.KeySource() != a.KeySource() {
		t.Errorf("%+v, %v", b, err)
	}
	// Nobody answers: saved, with the reason.
	b, err = a.Changed(t.Context(), account.Change{Identity: system}, inUse, vault{})
	if err != nil || b.Identity.Type != account.IdentitySystemAssigned || b.Identity.PrincipalID != "" || b.Identity.Problem != "no endpoint" {
		t.Errorf("without an endpoint: %+v, %v", b, err)
	}
	// Asked again later, that is an error, and nothing changes; an answer is noted.
	if _, err := b.Renewed(t.Context(), vault{}); hsm.KindOf(err) != hsm.KindUnreachable {
		t.Errorf("renewed without an endpoint: %v", err)
	}
	if c, err := b.Renewed(t.Context(), vault{"SystemAssigned": true}); err != nil || c.Identity.Problem != "" || c.Identity.PrincipalID == "" || b.Identity.Problem == "" {
		t.Errorf("renewed: %+v, %v", c, err)
	}
	// Tokens need not say anything: they are the vault's to read.
	b, err = a.Changed(t.Context(), account.Change{Identity: system}, inUse, opaque{})
	if err != nil || b.Identity.PrincipalID != "" || b.Identity.Problem == "" {
		t.Errorf("with a token that says nothing: %+v, %v", b, err)
	}
	// The host does not have it: refused.
	if _, err := a.Changed(t.Context(), account.Change{Identity: system}, inUse, vault{"SystemAssigned": false}); hsm.KindOf(err) != hsm.KindDenied {
		t.Errorf("an identity that the host does not have: %v", err)
	}
	if _, err := a.Renewed(t.Context(), vault{}); !errors.Is(err, account.ErrInvalid) {
		t.Errorf("renewed without an identity: %v", err)
	}
}

// Every account encryption key is asked for as the new identity before any of
// it holds.
func TestAccount_Identity_Switch(t *testing.T) {
	a := vaultAccount()
	user := account.Change{Identity: &account.Identity{Type: account.IdentityUserAssigned, UserAssignedIdentity: "U"}}
	agent := &asks{refused: map[string]bool{"UserAssignedU": true}}
	before, _ := json.Marshal(a)
	var refused *hsm.Error
	if _, err := a.Changed(t.Context(), user, inUse, agent); !errors.As(err, &refused) || refused.Op != "encrypt" {
		t.Errorf("refused: %v", err)
	}
	if after, _ := json.Marshal(a); string(after) != string(before) {
		t.Errorf("a refused switch changed the account:\n%s\n%s", before, after)
	}
	agent = &asks{}
	b, err := a.Changed(t.Context(), user, inUse, agent)
	if err != nil || !slices.Equal(agent.asked, []string{"UserAssignedU older", "UserAssignedU newest"}) {
		t.Fatalf("switch: %v, asked %q", err, agent.asked)
	}
	want := account.Identity{Type: account.IdentityUserAssigned, UserAssignedIdentity: "U", PrincipalID: "oid of UserAssignedU", ClientID: "client of UserAssignedU", TenantID: "tenant"}
	if b.Identity != want {
		t.Errorf("identity %+v, want %+v", b.Identity, want)
	}
	for _, k := range b.AEKs {
		if k.Key.Azure != nil && k.Key.Azure.UserAssignedIdentity != "U" {
			t.Errorf("%s is still asked for as %+v", k.ID, k.Key.Azure)
		}
	}
	// An application of another tenant, and back.
	b, err = b.Changed(t.Context(), account.Change{Identity: &account.Identity{Type: account.IdentityUserAssigned, UserAssignedIdentity: "U", FederatedClientID: "F"}}, inUse, agent)
	if err != nil || b.Identity.FederatedPrincipalID != "oid of application" || b.Identity.PrincipalID != want.PrincipalID {
		t.Errorf("federated: %+v, %v", b, err)
	}
	b, err = b.Changed(t.Context(), account.Change{Identity: &account.Identity{Type: account.IdentitySystemAssigned}}, inUse, agent)
	if err != nil || b.Identity.FederatedClientID != "" || b.Identity.PrincipalID != "oid of SystemAssigned" || b.Current().Key.Azure.FederatedClientID != "" {
		t.Errorf("back: %+v, %v", b, err)
	}
	if _, err := a.Changed(t.Context(), account.Change{Identity: &account.Identity{Type: account.IdentitySystemAssigned, FederatedClientID: "F"}}, inUse, agent); !errors.Is(err, account.ErrInvalid) {
		t.Errorf("federated without a user-assigned identity: %v", err)
	}
}

// The endpoint and the authorities are the vault's, so they change for every
// key in it; which key it is does not.
func TestAccount_PrivateEndpoint_OfAllKeys(t *testing.T) {
	a := vaultAccount()
	key := azureKey("k")
	key.Azure.PrivateEndpoint = "10.0.0.4"
	b, err := a.Changed(t.Context(), account.Change{Key: key}, inUse, &asks{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range b.AEKs {
		if k.Key.Azure != nil && k.Key.Azure.PrivateEndpoint != "10.0.0.4" {
			t.Errorf("%s is reached at %q", k.ID, k.Key.Azure.PrivateEndpoint)
		}
	}
	if _, err := a.Changed(t.Context(), account.Change{Key: key}, inUse, &asks{refused: map[string]bool{"SystemAssigned": true}}); hsm.KindOf(err) != hsm.KindDenied {
		t.Errorf("an endpoint at which the key is refused: %v", err)
	}
}

// What account show prints has the shape that az netappfiles prints.
func TestAccount_View_Identity(t *testing.T) {
	a := vaultAccount()
	a.AEKs = a.AEKs[len(a.AEKs)-1:]
	const id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
	for _, tc := range []struct {
		identity         account.Identity
		identityJSON     string
		encryptionIDJSON string
	}{
		{
			account.Identity{Type: account.IdentityUserAssigned, UserAssignedIdentity: id, PrincipalID: "p", ClientID: "c", TenantID: "t"},
			`{"type":"UserAssigned","principalId":null,"tenantId":null,"userAssignedIdentities":{"` + id + `":{"clientId":"c","principalId":"p","tenantId":"t"}}}`,
			`{"principalId":"p","userAssignedIdentity":"` + id + `","federatedClientId":null}`,
		},
		{
			account.Identity{Type: account.IdentitySystemAssigned, PrincipalID: "p", ClientID: "c", TenantID: "t"},
			`{"type":"SystemAssigned","principalId":"p","tenantId":"t","userAssignedIdentities":null}`,
			`{"principalId":"p","userAssignedIdentity":null,"federatedClientId":null}`,
		},
		{
			account.Identity{Type: account.IdentityUserAssigned, UserAssignedIdentity: id, FederatedClientID: "f", FederatedPrincipalID: "fp", PrincipalID: "p", ClientID: "c", TenantID: "t"},
			`{"type":"UserAssigned","principalId":null,"tenantId":null,"userAssignedIdentities":{"` + id + `":{"clientId":"c","principalId":"p","tenantId":"t"}}}`,
			`{"principalId":"p","userAssignedIdentity":"` + id + `","federatedClientId":"f","federatedPrincipalId":"fp"}`,
		},
		{
			account.Identity{Type: account.IdentitySystemAssigned, Problem: "no endpoint"},
			`{"type":"SystemAssigned","principalId":null,"tenantId":null,"userAssignedIdentities":null,"problem":"no endpoint"}`,
			`{"principalId":null,"userAssignedIdentity":null,"federatedClientId":null}`,
		},
	} {
		a.Identity = tc.identity
		v := a.View(false, false)
		identity, _ := json.Marshal(v.Identity)
		encryption, _ := json.Marshal(v.Encryption.Identity)
		if string(identity) != tc.identityJSON {
			t.Errorf("identity:\n got %s\nwant %s", identity, tc.identityJSON)
		}
		if string(encryption) != tc.encryptionIDJSON {
			t.Errorf("encryption.identity:\n got %s\nwant %s", encryption, tc.encryptionIDJSON)
		}
	}
}
