package account

import (
	"context"
	"errors"
	"slices"

	"cmkfs/hsm"
)

// Identity types, spelled as az netappfiles spells them.
const (
	IdentityNone           = "None"
	IdentitySystemAssigned = "SystemAssigned"
	IdentityUserAssigned   = "UserAssigned"
)

// Identity is who the account is towards the key vault: what it is named, and
// what its tokens said when it was last seen.
type Identity struct {
	Type                 string `json:"type"`                           // None, SystemAssigned, UserAssigned
	UserAssignedIdentity string `json:"userAssignedIdentity,omitempty"` // client, object or resource id
	// FederatedClientID is an application of the vault's tenant, for which the
	// user-assigned identity vouches.
	FederatedClientID string `json:"federatedClientId,omitempty"`

	PrincipalID string `json:"principalId,omitempty"` // its object id, once known
	ClientID    string `json:"clientId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
	// FederatedPrincipalID is the application's object id in the vault's
	// tenant: with one, that is what the vault sees and grants to.
	FederatedPrincipalID string `json:"federatedPrincipalId,omitempty"`
	Problem              string `json:"problem,omitempty"` // why nothing is known of its tokens; "" = they were seen
}

func (i Identity) validate() error {
	switch i.Type {
	case IdentityNone, IdentitySystemAssigned:
		if i.UserAssignedIdentity != "" {
			return failf(ErrInvalid, "a user-assigned identity needs the identity type UserAssigned")
		}
		if i.FederatedClientID != "" {
			return failf(ErrInvalid, "a federated client id needs the identity type UserAssigned: a user-assigned identity vouches for it")
		}
	case IdentityUserAssigned:
		if i.UserAssignedIdentity == "" {
			return failf(ErrInvalid, "the identity type UserAssigned needs a user-assigned identity")
		}
	default:
		return failf(ErrInvalid, "the identity type is SystemAssigned or UserAssigned, not %q", i.Type)
	}
	return nil
}

// named is the identity without what was seen of it.
func (i Identity) named() Identity {
	return Identity{Type: i.Type, UserAssignedIdentity: i.UserAssignedIdentity, FederatedClientID: i.FederatedClientID}
}

// Ask returns a vault's configuration with this identity in it.
func (i Identity) Ask(c hsm.AzureConfig) hsm.AzureConfig {
	c.IdentityType, c.UserAssignedIdentity, c.FederatedClientID = i.Type, i.UserAssignedIdentity, i.FederatedClientID
	return c
}

// seen notes what tokens said.
func (i *Identity) seen(info hsm.Info) {
	*i = i.named()
	own := hsm.Principal{ObjectID: info.PrincipalID, ClientID: info.ClientID, TenantID: info.TenantID}
	if i.FederatedClientID != "" {
		i.FederatedPrincipalID, own = info.PrincipalID, info.Voucher
	}
	i.PrincipalID, i.ClientID, i.TenantID = own.ObjectID, own.ClientID, own.TenantID
}

// Noticed returns the account with what a successful check has shown about who
// it is now, nil if that is nothing new: an identity that was deleted and made
// anew is somebody else under the same name. Tokens that say nothing are no news.
func (a *Account) Noticed(info hsm.Info) *Account {
	if info.PrincipalID == "" || a.KeySource() != hsm.SourceKeyVault {
		return nil
	}
	b := *a
	b.Identity.seen(info)
	if b.Identity == a.Identity {
		return nil
	}
	return &b
}

// IdentityChangedEvent is what the audit log says when Noticed has noticed.
func IdentityChangedEvent(old, changed *Account) Event {
	return Event{Kind: AuditIdentityChanged, Detail: identityDetail(old.Identity, changed.Identity)}
}

// UpdatedEvent is what the audit log says of an update.
func UpdatedEvent(old, updated *Account) Event {
	detail := map[string]string{"keySource": updated.KeySource()}
	if updated.Identity != old.Identity {
		detail = identityDetail(old.Identity, updated.Identity)
		detail["keySource"], detail["identityType"] = updated.KeySource(), updated.Identity.Type
	}
	return Event{Kind: AuditAccountUpdated, Detail: detail}
}

// identityDetail names the principal and, if it is another one, the former.
func identityDetail(old, now Identity) map[string]string {
	detail := map[string]string{}
	note := func(name, value string) {
		if value != "" {
			detail[name] = value
		}
	}
	note("principalId", now.PrincipalID)
	note("federatedPrincipalId", now.FederatedPrincipalID)
	if now.PrincipalID != old.PrincipalID {
		note("formerPrincipalId", old.PrincipalID)
	}
	if now.FederatedPrincipalID != old.FederatedPrincipalID {
		note("formerFederatedPrincipalId", old.FederatedPrincipalID)
	}
	return detail
}

// CredentialsRenewedEvent is what the audit log says of a renewal.
func CredentialsRenewedEvent(old, renewed *Account) Event {
	return Event{Kind: AuditCredentialsRenewed, Detail: identityDetail(old.Identity, renewed.Identity)}
}

// learn gets a token to see whose it is. With an error it only notes why it
// could not.
func (a *Account) learn(ctx context.Context, agent KeyAgent) error {
	if a.Identity.Type == IdentityNone {
		return nil
	}
	azure := a.Identity.Ask(hsm.AzureConfig{})
	info, err := agent.Identify(ctx, hsm.Config{Source: hsm.SourceKeyVault, Azure: &azure}, a.Location)
	if err != nil {
		a.Identity.Problem = err.Error()
		var e *hsm.Error
		if errors.As(err, &e) && e.Message != "" {
			a.Identity.Problem = e.Message
		}
		return err
	}
	a.Identity.seen(info)
	if a.Identity.PrincipalID == "" {
		a.Identity.Problem = "its tokens do not say what it is"
	}
	return nil
}

// later says whether a failure to get a token may pass by itself.
func later(err error) bool {
	kind := hsm.KindOf(err)
	return kind == hsm.KindUnreachable || kind == hsm.KindThrottled
}

// reach lets the account's keys be asked for as config says: as whom, where and
// with which operations. Each account encryption key is proven to work that way
// first.
func (a *Account) reach(ctx context.Context, config hsm.AzureConfig, agent KeyAgent) error {
	current := a.Current()
	for i := range a.AEKs {
		k := &a.AEKs[i]
		if k.Key.Azure == nil {
			continue
		}
		azure := config
		if azure.KeyName != k.Key.Azure.KeyName {
			azure.KeyName, azure.KeyVersion = k.Key.Azure.KeyName, k.Key.Azure.KeyVersion
		}
		if k.Key.Azure.VaultURI != config.VaultURI {
			azure = a.Identity.Ask(*k.Key.Azure) // another vault is reached otherwise
		}
		k.Key.Azure = &azure
		info, err := agent.Prove(ctx, *k)
		if err != nil {
			return err
		}
		if err := a.checkRegion(info); err != nil {
			return err
		}
		k.KeyInfo = info
		if k == current {
			a.Identity.seen(info)
		}
	}
	return nil
}

// Renewed returns the account after its credentials were read and used anew: a
// token was got, or a PIN read, by an agent that had none before, and everything
// the account needs of its key was done with it. It stores nothing and leaves a
// as it is.
func (a *Account) Renewed(ctx context.Context, agent KeyAgent) (*Account, error) {
	b := *a
	b.AEKs = slices.Clone(a.AEKs)
	k := b.Current()
	var err error
	switch {
	case k != nil && k.Key.Azure != nil:
		err = b.reach(ctx, *k.Key.Azure, agent)
	case k != nil && k.Key.PKCS11 != nil:
		k.KeyInfo, err = agent.Prove(ctx, *k)
	case b.Identity.Type != IdentityNone:
		err = b.learn(ctx, agent)
	default:
		err = failf(ErrInvalid, "account %s has no credentials: its key is platform-managed and it has no identity", a.Name)
	}
	if err != nil {
		return nil, err
	}
	return &b, nil
}
