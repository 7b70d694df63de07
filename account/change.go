package account

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cmkfs/hsm"

	"github.com/google/uuid"
)

// KeyAgent is what making and changing an account needs of the key agent.
type KeyAgent interface {
	// Examine says whether a key can serve as customer-managed key.
	Examine(ctx context.Context, key hsm.Config) (hsm.Info, error)
	// NewAEK makes an account encryption key and wraps it.
	NewAEK(ctx context.Context, key hsm.Config, aekID string) (hsm.Wrapped, []byte, error)
	// Check decrypts a wrapped account encryption key.
	Check(ctx context.Context, k AEKRecord) (hsm.Info, error)
	// Prove says whether all that an account needs of its key is permitted.
	Prove(ctx context.Context, k AEKRecord) (hsm.Info, error)
	// Identify says who would ask a vault with this configuration.
	Identify(ctx context.Context, key hsm.Config, location string) (hsm.Info, error)
	// Rewrap wraps an account encryption key by another customer's key, which
	// it examines, and returns what is known about that key.
	Rewrap(ctx context.Context, k AEKRecord, to hsm.Config) (hsm.Wrapped, hsm.Info, error)
}

// ErrRekey: the account's key cannot be replaced while volumes need it.
var ErrRekey = errors.New("volumes need the present key")

// ErrOneWay: what is under the customer's key does not go back to the platform's.
var ErrOneWay = errors.New("volumes do not revert to platform-managed keys")

// Change is what an account update asks for; what is nil stays.
type Change struct {
	Location *string           `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"` // replaces all
	Identity *Identity         `json:"identity,omitempty"`
	Key      *hsm.Config       `json:"key,omitempty"`
	Policy   *PolicyChange     `json:"policy,omitempty"`
}

// PolicyChange changes a policy; what is zero stays.
type PolicyChange struct {
	CheckInterval          Duration `json:"checkInterval,omitzero"`
	CheckIntervalUnhealthy Duration `json:"checkIntervalUnhealthy,omitzero"`
	OutageGrace            Duration `json:"outageGrace,omitzero"`
	Recovery               string   `json:"recovery,omitempty"`
	OnSuspend              string   `json:"onSuspend,omitempty"`
	SuspendErrno           string   `json:"suspendErrno,omitempty"`
}

func set[T comparable](to *T, from T) {
	var zero T
	if from != zero {
		*to = from
	}
}

// Apply returns the changed policy.
func (c PolicyChange) Apply(p Policy) Policy {
	set(&p.CheckInterval, c.CheckInterval)
	set(&p.CheckIntervalUnhealthy, c.CheckIntervalUnhealthy)
	set(&p.OutageGrace, c.OutageGrace)
	set(&p.Recovery, c.Recovery)
	set(&p.OnSuspend, c.OnSuspend)
	set(&p.SuspendErrno, c.SuspendErrno)
	return p
}

// New makes the record of an account whose volumes are platform-managed. It
// stores nothing.
func New(ctx context.Context, name, location string, tags map[string]string, platform hsm.Config, agent KeyAgent) (*Account, error) {
	if err := CheckName("account", name); err != nil {
		return nil, err
	}
	if location == "" {
		location = DefaultLocation
	}
	location, err := NormalizeLocation(location)
	if err != nil {
		return nil, err
	}
	k, err := newAEK(ctx, platform, agent)
	if err != nil {
		return nil, err
	}
	return &Account{
		Version: FormatVersion, ID: uuid.NewString(), Name: name, Location: location, Tags: tags,
		Created: time.Now().UTC().Truncate(time.Second), Identity: Identity{Type: IdentityNone},
		AEKs: []AEKRecord{k}, Policy: DefaultPolicy(),
	}, nil
}

func newAEK(ctx context.Context, key hsm.Config, agent KeyAgent) (AEKRecord, error) {
	info, err := agent.Examine(ctx, key)
	if err != nil {
		return AEKRecord{}, err
	}
	k := AEKRecord{ID: uuid.NewString(), Source: key.Source, Key: key, KeyInfo: info, Created: time.Now().UTC().Truncate(time.Second)}
	k.Wrapped, k.Commitment, err = agent.NewAEK(ctx, key, k.ID)
	return k, err
}

// Changed returns the account with the change made. It stores nothing and
// leaves a as it is. Every key that it names was really asked. used says
// whether a volume needs an account encryption key.
func (a *Account) Changed(ctx context.Context, c Change, used func(aekID string) (bool, error), agent KeyAgent) (*Account, error) {
	b := *a
	b.AEKs, b.Tags = slices.Clone(a.AEKs), maps.Clone(a.Tags)
	if c.Location != nil {
		l, err := NormalizeLocation(*c.Location)
		if err != nil {
			return nil, err
		}
		b.Location = l
	}
	if c.Tags != nil {
		b.Tags = c.Tags
	}
	if c.Policy != nil {
		b.Policy = c.Policy.Apply(b.Policy)
		if err := b.Policy.Validate(); err != nil {
			return nil, err
		}
	}
	if c.Identity != nil {
		if err := c.Identity.validate(); err != nil {
			return nil, err
		}
		b.Identity = c.Identity.named()
	}
	key := c.Key
	if current := b.AEKFor(hsm.SourceKeyVault); key == nil && c.Identity != nil && current != nil {
		key = &current.Key // the same key, asked as somebody else
	}
	if key != nil {
		if err := b.setKey(ctx, *key, used, agent); err != nil {
			return nil, err
		}
	}
	if current := b.AEKFor(hsm.SourceKeyVault); current != nil && b.Location != a.Location {
		if err := b.checkRegion(current.KeyInfo); err != nil {
			return nil, err
		}
	}
	if c.Identity != nil && (key == nil || key.Azure == nil) {
		// No key needs it yet: what it is called at the vault is learnt if
		// anybody answers, and otherwise when a key is configured.
		if err := b.learn(ctx, agent); err != nil && !later(err) {
			return nil, err
		}
	}
	return &b, nil
}

// setKey makes key the one that wraps the account encryption key.
func (a *Account) setKey(ctx context.Context, key hsm.Config, used func(string) (bool, error), agent KeyAgent) error {
	if key.Source == hsm.SourcePlatform {
		return a.dropCustomerKeys(ctx, key, used, agent)
	}
	if key.Azure != nil {
		if a.Identity.Type == IdentityNone {
			a.Identity.Type = IdentitySystemAssigned
		}
		azure := a.Identity.Ask(*key.Azure)
		key.Azure = &azure
	}
	old := a.Current()
	if old != nil && old.Source == hsm.SourcePlatform {
		old = nil
	}
	if old != nil && key.Azure != nil && perhapsSameKey(old, key) {
		return a.reach(ctx, *key.Azure, agent)
	}
	if old != nil && perhapsSameKey(old, key) {
		same := *old
		same.Key = key
		info, err := agent.Check(ctx, same)
		if err == nil && info.KeyID == old.Wrapped.KeyID {
			same.KeyInfo = info
			*old = same
			return a.reachOlder(ctx, same, agent)
		}
		if err != nil && *key.PKCS11 == *old.Key.PKCS11 {
			return err
		}
	}
	if inUse, err := a.customerKeyInUse(used); err != nil {
		return err
	} else if inUse != nil {
		return failf(ErrRekey, "account %s has volumes encrypted with its present key %s: it cannot be replaced by another key", a.Name, inUse.Wrapped.KeyID)
	}
	k, err := newAEK(ctx, key, agent)
	if err != nil {
		return err
	}
	if err := a.checkRegion(k.KeyInfo); err != nil {
		return err
	}
	if key.Azure != nil {
		a.Identity.seen(k.KeyInfo)
	}
	a.replaceCustomerKeys(&k) // no volume needs the old ones
	return nil
}

// dropCustomerKeys goes back to the platform-managed key, which is only
// possible while no volume is under the customer's. After a transition there is
// none left, and a new one is made.
func (a *Account) dropCustomerKeys(ctx context.Context, platform hsm.Config, used func(string) (bool, error), agent KeyAgent) error {
	if inUse, err := a.customerKeyInUse(used); err != nil {
		return err
	} else if inUse != nil {
		return failf(ErrOneWay, "account %s has volumes encrypted with its key %s: volumes cannot revert to platform-managed keys", a.Name, inUse.Wrapped.KeyID)
	}
	a.replaceCustomerKeys(nil)
	if len(a.AEKs) > 0 {
		return nil
	}
	k, err := newAEK(ctx, platform, agent)
	if err != nil {
		return err
	}
	a.AEKs = append(a.AEKs, k)
	return nil
}

// customerKeyInUse returns one of the account encryption keys under the
// customer's key that a volume needs; nil = there is none.
func (a *Account) customerKeyInUse(used func(string) (bool, error)) (*AEKRecord, error) {
	for i := range a.AEKs {
		if a.AEKs[i].Source == hsm.SourcePlatform {
			continue
		}
		if inUse, err := used(a.AEKs[i].ID); err != nil || inUse {
			return &a.AEKs[i], err
		}
	}
	return nil, nil
}

// perhapsSameKey reports whether a configuration may mean the key that wraps a
// record. A vault's key is named exactly; a version that is left open means the
// one in force, until a newer one is followed. A token's key can be written in
// many ways, so only the token tells.
func perhapsSameKey(old *AEKRecord, key hsm.Config) bool {
	if old.Key.Azure == nil || key.Azure == nil {
		return old.Key.PKCS11 != nil && key.PKCS11 != nil
	}
	_, _, inForce, _ := hsm.ParseKeyURI(old.Wrapped.KeyID)
	return old.Key.Azure.VaultURI == key.Azure.VaultURI && old.Key.Azure.KeyName == key.Azure.KeyName &&
		slices.Contains([]string{"", old.Key.Azure.KeyVersion, inForce}, key.Azure.KeyVersion)
}

// Usable says whether a key with these attributes can become the account's key.
func (a *Account) Usable(info hsm.Info, now time.Time) error {
	if err := info.Usable(now); err != nil {
		return err
	}
	return a.checkRegion(info)
}

// checkRegion refuses a vault that says it is in another region. One that does
// not say, as a Managed HSM, is accepted: there is nothing to compare.
func (a *Account) checkRegion(info hsm.Info) error {
	region := foldLocation(info.Region)
	if region == "" || region == a.Location {
		return nil
	}
	return &hsm.Error{
		Op: "get", KeyID: info.KeyID, Kind: hsm.KindMisconfigured, Condition: hsm.RegionMismatch, Reason: "RegionMismatch",
		Message: hsm.RegionMismatch.Because(fmt.Sprintf("the account is in %s, the vault in %s", a.Location, region)),
		Hint:    "if it is the account's location that is wrong: cmkfsd account update --location REGION",
		Err:     fmt.Errorf("x-ms-keyvault-region: %s", info.Region),
	}
}
