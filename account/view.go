package account

import (
	"time"

	"cmkfs/hsm"
)

// View is an account as it is shown, with the field names that az netappfiles
// account show has.
type View struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	Identity   IdentityView      `json:"identity"`
	Encryption EncryptionView    `json:"encryption"`
	Policy     Policy            `json:"policy"`
	Warning    string            `json:"warning,omitempty"` // what expires soon or has expired
}

// IdentityView is who the account is. Of a user-assigned identity everything is
// in UserAssignedIdentities, and null here.
type IdentityView struct {
	Type                   string                      `json:"type"`
	PrincipalID            *string                     `json:"principalId"` // null = not known
	TenantID               *string                     `json:"tenantId"`
	UserAssignedIdentities map[string]UserIdentityView `json:"userAssignedIdentities"` // by the name it was given; null = none
	Problem                string                      `json:"problem,omitempty"`      // why the ids are not known
}

// UserIdentityView is one user-assigned identity; null = not known.
type UserIdentityView struct {
	ClientID    *string `json:"clientId"`
	PrincipalID *string `json:"principalId"`
	TenantID    *string `json:"tenantId"`
}

// EncryptionView is which key guards the account.
type EncryptionView struct {
	KeySource          string              `json:"keySource"`
	KeyID              string              `json:"keyId"` // the exact key that unwraps
	KeyVaultProperties *KeyVaultProperties `json:"keyVaultProperties,omitempty"`
	PKCS11Properties   *PKCS11Properties   `json:"pkcs11Properties,omitempty"`
	Identity           *EncryptionIdentity `json:"identity,omitempty"`
	KeyExpires         time.Time           `json:"keyExpires,omitzero"`        // zero = never, or not known
	CredentialExpires  time.Time           `json:"credentialExpires,omitzero"` // likewise
	PreviousKeys       []PreviousKeyView   `json:"previousKeys,omitempty"`
	// Unfinished is a rotation or transition that has begun and goes on by itself.
	Unfinished *KeyMove `json:"unfinished,omitempty"`
}

// PreviousKeyView is a former key or version of it.
type PreviousKeyView struct {
	PreviousKey
	// NeededBy has the account encryption keys that only it unwraps; while it
	// is empty the former key may be disabled.
	NeededBy []string `json:"neededBy"`
}

// KeyVaultProperties names the key in its vault.
type KeyVaultProperties struct {
	KeyVaultURI        string `json:"keyVaultUri"`
	KeyName            string `json:"keyName"`
	KeyVersion         string `json:"keyVersion"`
	KeyVaultResourceID string `json:"keyVaultResourceId,omitempty"`
	Status             string `json:"status"` // Created, InUse, Error
}

// PKCS11Properties names the key on its token.
type PKCS11Properties struct {
	URI    string `json:"uri"` // with the place of its PIN, never the PIN
	Status string `json:"status"`
}

// EncryptionIdentity is who asks the vault. The vault's administrator grants to
// FederatedPrincipalID if there is one, and to PrincipalID otherwise.
type EncryptionIdentity struct {
	PrincipalID          *string `json:"principalId"`
	UserAssignedIdentity *string `json:"userAssignedIdentity"`
	FederatedClientID    *string `json:"federatedClientId"`
	FederatedPrincipalID *string `json:"federatedPrincipalId,omitempty"`
}

// The status of a key as the service names it.
const (
	KeyStatusCreated = "Created" // no volume uses it
	KeyStatusInUse   = "InUse"
	KeyStatusError   = "Error" // the account is suspended because of it
)

// View returns what account show prints. inUse says whether volumes use the
// account's key; failing whether the lease is suspended because of it.
func (a *Account) View(inUse, failing bool) View {
	status := KeyStatusCreated
	switch {
	case failing:
		status = KeyStatusError
	case inUse:
		status = KeyStatusInUse
	}
	v := View{
		ID: a.ID, Name: a.Name, Location: a.Location, Tags: a.Tags, Policy: a.Policy,
		Identity:   a.Identity.view(),
		Encryption: EncryptionView{KeySource: a.KeySource(), Unfinished: a.Move},
	}
	for _, p := range a.PreviousKeys {
		v.Encryption.PreviousKeys = append(v.Encryption.PreviousKeys, PreviousKeyView{PreviousKey: p, NeededBy: a.wrappedBy(p.KeyID)})
	}
	k := a.Current()
	if k == nil {
		return v
	}
	v.Encryption.KeyID = k.Wrapped.KeyID
	v.expire(k.KeyInfo.Expires, k.KeyInfo.CredentialExpires)
	switch k.Source {
	case hsm.SourceKeyVault:
		version := k.Key.Azure.KeyVersion
		if _, _, pinned, err := hsm.ParseKeyURI(k.Wrapped.KeyID); err == nil {
			version = pinned
		}
		v.Encryption.KeyVaultProperties = &KeyVaultProperties{
			KeyVaultURI: k.Key.Azure.VaultURI, KeyName: k.Key.Azure.KeyName, KeyVersion: version,
			KeyVaultResourceID: k.Key.Azure.KeyVaultResourceID, Status: status,
		}
		v.Encryption.Identity = &EncryptionIdentity{
			PrincipalID: known(a.Identity.PrincipalID), UserAssignedIdentity: known(a.Identity.UserAssignedIdentity),
			FederatedClientID: known(a.Identity.FederatedClientID), FederatedPrincipalID: known(a.Identity.FederatedPrincipalID),
		}
	case hsm.SourcePKCS11:
		v.Encryption.PKCS11Properties = &PKCS11Properties{URI: k.Key.PKCS11.URI, Status: status}
	}
	return v
}

// ExpireByLease says what the last check learnt about expiries.
func (v *View) ExpireByLease(l Lease) {
	if !l.LastSuccess.IsZero() {
		v.expire(l.KeyExpires, l.CredentialExpires)
	}
}

func (v *View) expire(key, credential time.Time) {
	v.Encryption.KeyExpires, v.Encryption.CredentialExpires = key, credential
	v.Warning = expiryWarning(hsm.Info{Expires: key, CredentialExpires: credential}, time.Now())
}

func (i Identity) view() IdentityView {
	v := IdentityView{Type: i.Type, Problem: i.Problem}
	if i.UserAssignedIdentity == "" {
		v.PrincipalID, v.TenantID = known(i.PrincipalID), known(i.TenantID)
		return v
	}
	v.UserAssignedIdentities = map[string]UserIdentityView{
		i.UserAssignedIdentity: {ClientID: known(i.ClientID), PrincipalID: known(i.PrincipalID), TenantID: known(i.TenantID)},
	}
	return v
}

// known is nil for what is not, so that it becomes null.
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
