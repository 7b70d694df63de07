package keyagent

import (
	"context"

	"cmkfs/crypto"
	"cmkfs/hsm"
)

// Under is an account encryption key with the customer's key that wraps it.
type Under struct {
	Key   hsm.Config `json:"key"`
	AEKID string     `json:"aekId"`
	AEK   AEK        `json:"aek"`
}

// Reseal takes a volume encryption key from one account encryption key to
// another. Both are unwrapped by their customer's keys, and what comes out was
// opened once more for proof. The volume's key itself stays the same.
func (c *Client) Reseal(ctx context.Context, from, to Under, volumeID [16]byte, v VEK) (VEK, error) {
	r, err := c.call(ctx, request{
		Op: opReseal, Key: to.Key, AEKID: to.AEKID, AEK: &to.AEK, VolumeID: volumeID[:], VEK: &v, From: &from,
	}, nil)
	if err == nil && r.VEK == nil {
		err = malformed(opReseal)
	}
	if err != nil {
		return VEK{}, err
	}
	return *r.VEK, nil
}

// reseal is Reseal in the agent. The new account key is unwrapped first: if it
// cannot be had, the old one is not needed.
func reseal(ctx context.Context, req request) (*VEK, error) {
	if req.VEK == nil || req.From == nil {
		return nil, misconfigured(req.Op, "NoVEK", "There is no volume encryption key or no account encryption key that it is under", nil)
	}
	to, err := openAEK(ctx, req)
	if err != nil {
		return nil, err
	}
	defer clear(to[:])
	source := req
	source.Key, source.AEKID, source.AEK = req.From.Key, req.From.AEKID, &req.From.AEK
	vek, err := openVEK(ctx, source)
	if err != nil {
		return nil, err
	}
	defer clear(vek[:])
	sealed := crypto.SealKey(to, vek, vekAD(req))
	back, err := crypto.OpenKey(to, sealed, vekAD(req))
	if err != nil || !back.Equal(vek) {
		return nil, misconfigured(req.Op, "BadVEK", "The volume encryption key could not be opened after it was sealed again", err)
	}
	clear(back[:])
	return &VEK{Sealed: sealed, Commitment: req.VEK.Commitment}, nil
}
