package keyagent

import (
	"context"
	"time"

	"cmkfs/hsm"
)

// Rewrap takes an account encryption key from one customer's key to another
// one, or to another version of it, and returns it as the other one wraps it
// with what is known about that. The other key is held to what Examine asks of
// a key, and what it wrapped is unwrapped again and compared with the
// commitment before it is returned; nothing has changed for whoever does not
// store the result. An *hsm.Error with the reason hsm.ReasonSameKey says that
// both are one key, "OtherToken" that they are on two tokens.
func (c *Client) Rewrap(ctx context.Context, key hsm.Config, aekID string, a AEK, to hsm.Config) (AEK, hsm.Info, error) {
	r, err := c.call(ctx, request{Op: opRewrap, Key: key, AEKID: aekID, AEK: &a, NewKey: &to}, nil)
	if err == nil && r.AEK == nil {
		err = malformed(opRewrap)
	}
	if err != nil {
		return AEK{}, infoOf(r), err
	}
	return *r.AEK, infoOf(r), nil
}

// rewrap is the agent's part. The account encryption key lives in its frame and
// goes to the two keys, nowhere else.
func rewrap(ctx context.Context, req request) (*AEK, hsm.Info, error) {
	if req.NewKey == nil {
		return nil, hsm.Info{}, misconfigured(req.Op, "NoKey", "There is no key to wrap with", nil)
	}
	old, err := open(ctx, req)
	if err != nil {
		return nil, hsm.Info{}, err
	}
	defer old.Close()
	aek, err := unwrapAEK(ctx, req, old)
	if err != nil {
		return nil, hsm.Info{}, err
	}
	defer clear(aek[:])

	there := req
	there.Key = *req.NewKey
	k, err := open(ctx, there)
	if err != nil {
		return nil, hsm.Info{}, err
	}
	defer k.Close()
	info, err := k.Info(ctx)
	if err != nil {
		return nil, info, err
	}
	if err := info.Usable(time.Now()); err != nil {
		return nil, info, err
	}
	if err := different(ctx, there, old, k, info); err != nil {
		return nil, info, err
	}
	w, err := k.Wrap(ctx, aek[:])
	if err != nil {
		return nil, info, err
	}
	if hsm.SameKeyID(w.KeyID, req.AEK.Wrapped.KeyID) {
		return nil, info, sameKey(req.Op, w.KeyID)
	}
	if _, _, version, _ := hsm.ParseKeyURI(info.KeyID); version != "" && !hsm.SameKeyID(w.KeyID, info.KeyID) {
		// Made in this moment, so that nobody has looked at it.
		return nil, info, unreachable(req.Op, "KeyChanged", "The key got another version just now; try again", nil)
	}
	there.AEK = &AEK{Wrapped: w, Commitment: req.AEK.Commitment}
	back, err := unwrapAEK(ctx, there, k)
	if err != nil {
		return nil, info, err
	}
	clear(back[:])
	return there.AEK, info, nil
}

// different refuses a key that would replace itself, and one of another token.
// A vault names its keys and versions uniquely. A token's key can be named in
// several ways, so there it is the same if it decrypts the same.
func different(ctx context.Context, req request, old, k hsm.Key, info hsm.Info) error {
	same := hsm.SameKeyID(info.KeyID, req.AEK.Wrapped.KeyID)
	if req.Key.Source == hsm.SourcePKCS11 {
		before, err := old.Info(ctx)
		if err != nil {
			return err
		}
		if before.Token != info.Token {
			return &hsm.Error{Op: req.Op, KeyID: info.KeyID, Kind: hsm.KindMisconfigured, Reason: "OtherToken",
				Message: "The chosen key is on another PKCS#11 token than the current one"}
		}
		if !same {
			probe := *req.AEK
			probe.Wrapped.KeyID = info.KeyID
			req.AEK = &probe
			if aek, err := unwrapAEK(ctx, req, k); err == nil {
				clear(aek[:])
				same = true
			}
		}
	}
	if same {
		return sameKey(req.Op, info.KeyID)
	}
	return nil
}

func sameKey(op, keyID string) error {
	return &hsm.Error{Op: op, KeyID: keyID, Kind: hsm.KindMisconfigured, Reason: hsm.ReasonSameKey,
		Message: "The chosen key must be different from the current key"}
}
