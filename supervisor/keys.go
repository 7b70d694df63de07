package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/platform"
	"cmkfs/keyagent"
	"cmkfs/supervisor/api"
)

// keys is the key agent as package account sees it.
type keys struct{ *keyagent.Client }

// NewAEK implements account.KeyAgent.
func (k keys) NewAEK(ctx context.Context, key hsm.Config, aekID string) (hsm.Wrapped, []byte, error) {
	aek, err := k.Client.NewAEK(ctx, key, aekID)
	return aek.Wrapped, aek.Commitment, err
}

// Check implements account.KeyAgent.
func (k keys) Check(ctx context.Context, r account.AEKRecord) (hsm.Info, error) {
	return k.Client.Check(ctx, r.Key, r.ID, stored(&r))
}

// Prove implements account.KeyAgent.
func (k keys) Prove(ctx context.Context, r account.AEKRecord) (hsm.Info, error) {
	return k.Client.Prove(ctx, r.Key, r.ID, stored(&r))
}

// Rewrap implements account.KeyAgent.
func (k keys) Rewrap(ctx context.Context, r account.AEKRecord, to hsm.Config) (hsm.Wrapped, hsm.Info, error) {
	aek, info, err := k.Client.Rewrap(ctx, r.Key, r.ID, stored(&r), to)
	return aek.Wrapped, info, err
}

// stored is an account encryption key in the key agent's terms.
func stored(r *account.AEKRecord) keyagent.AEK {
	return keyagent.AEK{Wrapped: r.Wrapped, Commitment: r.Commitment}
}

func isKeyError(err error) bool {
	var e *hsm.Error
	return errors.As(err, &e)
}

// findAEK returns the account encryption key that a superblock names.
func (a *acct) findAEK(id string) (*account.AEKRecord, error) {
	k := a.record().AEK(id)
	if k == nil {
		return nil, api.Errorf(api.CodeMisconfigured, fmt.Sprintf("account %s does not have the key that the volume was created under (account encryption key %s)", a.name, id))
	}
	return k, nil
}

// aekFor returns the account encryption key under which a new volume of a key
// source is created.
func (a *acct) aekFor(source string) (*account.AEKRecord, error) {
	record := a.record()
	if m := record.Move; source == hsm.SourcePlatform && m != nil && m.Kind == account.MoveTransition {
		return nil, api.Errorf(api.CodeInvalid, fmt.Sprintf("account %s is in transition to customer-managed keys: it takes no new volumes under a platform-managed key", a.name))
	}
	if k := record.AEKFor(source); k != nil {
		return k, nil
	}
	switch source {
	case hsm.SourcePlatform:
		return nil, api.Errorf(api.CodeInvalid, fmt.Sprintf("account %s has made the transition to customer-managed keys: it has no platform-managed key any more", a.name))
	case hsm.SourceKeyVault:
		return nil, api.Refuse(api.CodeInvalid, hsm.NotConfigured)
	case hsm.SourcePKCS11:
		return nil, api.Refuse(api.CodeInvalid, hsm.TokenNotConfigured)
	}
	return nil, api.Errorf(api.CodeInvalid, fmt.Sprintf("account %s has no key of the source %s", a.name, source))
}

// platformKey returns the platform-managed key, and makes it for the first
// account. One that is lost is not replaced: what it wrapped needs it.
func (s *Supervisor) platformKey() (hsm.Config, error) {
	s.makingKey.Lock()
	defer s.makingKey.Unlock()
	path := s.dir.PlatformKeyPath()
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		for _, a := range s.accounts() {
			if a.record().AEKFor(hsm.SourcePlatform) != nil {
				return hsm.Config{}, api.Errorf(api.CodeDenied, fmt.Sprintf("the platform key file %s is missing, and account %s needs it; put it back", path, a.name))
			}
		}
		if err := platform.Create(path); err != nil {
			return hsm.Config{}, err
		}
	}
	return hsm.Config{Source: hsm.SourcePlatform, Platform: &hsm.PlatformConfig{KeyFile: path}}, nil
}
