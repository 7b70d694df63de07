package account

import (
	"context"
	"errors"
	"slices"
	"time"

	"cmkfs/hsm"
)

// What a rekey is refused for before any key is asked, and after.
var (
	ErrNoCustomerKey = errors.New("no customer-managed key")
	ErrOtherVault    = errors.New("another key vault")
	ErrSameKey       = errors.New("the same key")
)

// PreviousKey is a customer's key, or a version of it, that wrapped an account
// encryption key until another one took its place.
type PreviousKey struct {
	KeyID      string    `json:"keyId"`
	ReplacedAt time.Time `json:"replacedAt"`
}

// mostPrevious is how many former keys are remembered.
const mostPrevious = 10

// CustomerKey returns the record that the account's customer-managed key wraps,
// or ErrNoCustomerKey.
func (a *Account) CustomerKey() (*AEKRecord, error) {
	k := a.Current()
	if k == nil || k.Source == hsm.SourcePlatform {
		return nil, failf(ErrNoCustomerKey, "account %s has no customer-managed key", a.Name)
	}
	return k, nil
}

// settling is how long the copies of a vault may take to agree on which version
// of a key is the newest.
const settling = time.Hour

// Rekeyed returns the account with its account encryption keys wrapped by
// another of the customer's keys, which was held to everything that Changed asks
// of a new key. The account encryption keys stay what they are, so that no
// volume notices. It stores nothing and leaves a as it is.
func (a *Account) Rekeyed(ctx context.Context, key hsm.Config, agent KeyAgent) (*Account, error) {
	current, err := a.CustomerKey()
	if err != nil {
		return nil, err
	}
	if key.Source != current.Source {
		return nil, failf(ErrOtherVault, "Changing key vaults isn't supported: the key of account %s is in %s, not in %s", a.Name, current.Source, key.Source)
	}
	if key.Azure != nil {
		if key.Azure.VaultURI != current.Key.Azure.VaultURI {
			return nil, failf(ErrOtherVault, "Changing key vaults isn't supported: the key of account %s is in %s", a.Name, current.Key.Azure.VaultURI)
		}
		// Which key, no more: how the vault is reached and as whom is a change
		// of its own.
		azure := *current.Key.Azure
		azure.KeyName, azure.KeyVersion = key.Azure.KeyName, key.Azure.KeyVersion
		key.Azure = &azure
	}
	b, replaced, err := a.rewrapped(ctx, agent, func(AEKRecord) hsm.Config { return key })
	if err != nil {
		return nil, err
	}
	if !slices.Contains(replaced, current.ID) {
		return nil, failf(ErrSameKey, "The chosen key must be different from the current key %s", current.Wrapped.KeyID)
	}
	return b, nil
}

// Outdated returns the id of the newest version of the account's key if an
// account encryption key is wrapped by another version and should follow, or
// "". newest is what the vault said of it at the time now. A pinned version
// stays, and no version is taken that was replaced a short while ago: a vault
// whose copies do not agree yet would lead back and forth.
func (a *Account) Outdated(newest hsm.Info, now time.Time) string {
	_, name, version, err := hsm.ParseKeyURI(newest.KeyID)
	if err != nil || version == "" {
		return ""
	}
	for _, p := range a.PreviousKeys {
		if hsm.SameKeyID(p.KeyID, newest.KeyID) && now.Before(p.ReplacedAt.Add(settling)) {
			return ""
		}
	}
	for _, k := range a.AEKs {
		if k.Source != hsm.SourceKeyVault || k.Key.Azure.KeyVersion != "" {
			continue
		}
		if _, n, v, err := hsm.ParseKeyURI(k.Wrapped.KeyID); err == nil && n == name && v != version {
			return newest.KeyID
		}
	}
	return ""
}

// Followed returns the account with its account encryption keys wrapped by the
// newest version of the customer's key. It stores nothing and leaves a as it is.
func (a *Account) Followed(ctx context.Context, agent KeyAgent) (*Account, error) {
	b, replaced, err := a.rewrapped(ctx, agent, func(k AEKRecord) hsm.Config { return k.Key })
	if err == nil && len(replaced) == 0 {
		return nil, failf(ErrSameKey, "The vault no longer says that the key has a new version")
	}
	return b, err
}

// rewrapped wraps every account encryption key of the customer with the key
// that to returns for it. It returns the ids of those that were not under that
// key already; all or none.
func (a *Account) rewrapped(ctx context.Context, agent KeyAgent, to func(AEKRecord) hsm.Config) (*Account, []string, error) {
	b := *a
	b.AEKs, b.PreviousKeys = slices.Clone(a.AEKs), slices.Clone(a.PreviousKeys)
	var replaced []string
	for i := range b.AEKs {
		k := &b.AEKs[i]
		if k.Source == hsm.SourcePlatform {
			continue
		}
		key := to(*k)
		w, info, err := agent.Rewrap(ctx, *k, key)
		var keyErr *hsm.Error
		switch {
		case errors.As(err, &keyErr) && keyErr.Reason == hsm.ReasonSameKey:
			k.Key = key
			continue
		case errors.As(err, &keyErr) && keyErr.Reason == "OtherToken":
			return nil, nil, failf(ErrOtherVault, "Changing PKCS#11 tokens isn't supported: %s is on another token than the current key", info.KeyID)
		case err != nil:
			return nil, nil, err
		}
		if err := b.checkRegion(info); err != nil {
			return nil, nil, err
		}
		k.Key, k.Wrapped, k.KeyInfo = key, w, info
		if key.Azure != nil {
			b.Identity.seen(info)
		}
		replaced = append(replaced, k.ID)
	}
	b.remember(a.AEKs)
	return &b, replaced, nil
}

// remember notes which of the keys that wrapped the old records wrap nothing
// any more. One that is in force again is no former key.
func (a *Account) remember(old []AEKRecord) {
	inForce := func(id string) bool { return len(a.wrappedBy(id)) > 0 }
	now := time.Now().UTC().Truncate(time.Millisecond)
	for _, k := range old {
		known := slices.ContainsFunc(a.PreviousKeys, func(p PreviousKey) bool { return p.KeyID == k.Wrapped.KeyID })
		if k.Source != hsm.SourcePlatform && !inForce(k.Wrapped.KeyID) && !known {
			a.PreviousKeys = append(a.PreviousKeys, PreviousKey{KeyID: k.Wrapped.KeyID, ReplacedAt: now})
		}
	}
	a.PreviousKeys = slices.DeleteFunc(a.PreviousKeys, func(p PreviousKey) bool { return inForce(p.KeyID) })
	a.PreviousKeys = a.PreviousKeys[max(0, len(a.PreviousKeys)-mostPrevious):]
}

// wrappedBy returns the ids of the account encryption keys that a key wraps.
func (a *Account) wrappedBy(keyID string) []string {
	ids := []string{}
	for _, k := range a.AEKs {
		if hsm.SameKeyID(k.Wrapped.KeyID, keyID) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// replacedEvent describes how a key of the account became a former one.
func (a *Account) replacedEvent(p PreviousKey) Event {
	e := Event{Kind: AuditAccountRekeyed, KeyParams: a.KeyParams(), Detail: map[string]string{
		"oldKeyId": p.KeyID, "replacedAt": p.ReplacedAt.UTC().Format(time.RFC3339Nano),
	}}
	_, oldName, oldVersion, oldErr := hsm.ParseKeyURI(p.KeyID)
	_, name, version, err := hsm.ParseKeyURI(e.KeyID)
	if oldErr == nil && err == nil && oldName == name {
		e.Kind = AuditKeyVersionChanged
		e.Detail["oldKeyVersion"], e.Detail["newKeyVersion"] = oldVersion, version
	}
	return e
}
