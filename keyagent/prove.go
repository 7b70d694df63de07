package keyagent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cmkfs/crypto"
	"cmkfs/hsm"
	"cmkfs/hsm/azure"
)

// Identify says who would ask a key vault with this configuration, without
// asking one: Info has the fields about who asks and no others. location is the
// account's, which tells the cloud while there is no vault.
func (c *Client) Identify(ctx context.Context, key hsm.Config, location string) (hsm.Info, error) {
	r, err := c.call(ctx, request{Op: opIdentify, Key: key, Location: location}, nil)
	return infoOf(r), err
}

// Prove says whether everything that an account needs of its key can be done
// with this configuration of it: the attributes read, something encrypted and
// decrypted, the stored AEK decrypted. It is for the key in force, asked in
// another way or as somebody else: one that has expired since may still decrypt
// and is not asked to encrypt.
func (c *Client) Prove(ctx context.Context, key hsm.Config, aekID string, a AEK) (hsm.Info, error) {
	r, err := c.call(ctx, request{Op: opProve, Key: key, AEKID: aekID, AEK: &a}, nil)
	return infoOf(r), err
}

func identify(ctx context.Context, req request) (hsm.Info, error) {
	if req.Key.Source != hsm.SourceKeyVault || req.Key.Azure == nil {
		return hsm.Info{}, misconfigured(req.Op, "KeySource", fmt.Sprintf("The key source %q has no identities", req.Key.Source), nil)
	}
	return azure.Identify(ctx, *req.Key.Azure, req.Location)
}

// prove tries all three permissions before it fails, so that who has to grant
// them learns of all that are missing at once.
func prove(ctx context.Context, req request) (hsm.Info, error) {
	if req.AEK == nil {
		return hsm.Info{}, misconfigured(req.Op, "NoAEK", "There is no account encryption key to unwrap", nil)
	}
	if err := inForce(&req); err != nil {
		return hsm.Info{}, err
	}
	k, err := open(ctx, req)
	if err != nil {
		return hsm.Info{}, err
	}
	defer k.Close()
	var missing refusals
	info, err := k.Info(ctx)
	if err := missing.note(err); err != nil {
		return info, err
	}
	now := time.Now()
	if active := !now.Before(info.NotBefore) && (info.Expires.IsZero() || now.Before(info.Expires)); active {
		probe := make([]byte, crypto.KeySize)
		rand.Read(probe)
		_, err := wrapProven(ctx, req.Op, k, probe)
		if err := missing.note(err); err != nil {
			return info, err
		}
	}
	aek, err := unwrapAEK(ctx, req, k)
	clear(aek[:])
	if err := missing.note(err); err != nil {
		return info, err
	}
	return info, missing.err()
}

// inForce makes the request one about the version of the key that wrapped the
// AEK: a newer one that cannot be used is nothing the account needs.
func inForce(req *request) error {
	if req.Key.Azure == nil {
		return nil
	}
	_, _, version, err := hsm.ParseKeyURI(req.AEK.Wrapped.KeyID)
	if err != nil {
		return err
	}
	pinned := *req.Key.Azure
	pinned.KeyVersion = version
	req.Key.Azure = &pinned
	return nil
}

// refusals are the operations of a vault's key that were refused, each once.
type refusals []*hsm.Error

// note keeps a missing permission for later and returns every other error.
func (r *refusals) note(err error) error {
	var e *hsm.Error
	if !errors.As(err, &e) || e.Kind != hsm.KindDenied || e.Condition != hsm.Unusable || !slices.Contains([]string{"get", "encrypt", "decrypt"}, e.Op) {
		return err
	}
	if !slices.ContainsFunc(*r, func(have *hsm.Error) bool { return have.Op == e.Op }) {
		*r = append(*r, e)
	}
	return nil
}

// err is the first refusal, which names the others, too.
func (r refusals) err() error {
	if len(r) == 0 {
		return nil
	}
	first := *r[0]
	if len(r) > 1 {
		var ops []string
		for _, e := range r {
			ops = append(ops, e.Op)
		}
		first.Message += " (refused: " + strings.Join(ops, ", ") + ")"
	}
	return &first
}
