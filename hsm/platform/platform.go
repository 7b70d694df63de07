// Package platform is the key source that needs nothing: a random key in a
// local file (Create), standing in for the platform-managed key of a cloud
// service. It protects a volume no better than that file is protected; its use
// is that a volume can later move to a customer's key without being rewritten.
//
// The file is read again for every operation, so taking it away has the same
// effect as disabling a key in a vault.
package platform

import (
	"context"
	"encoding/hex"
	"errors"

	"cmkfs/crypto"
	"cmkfs/hsm"
)

// Algorithm is what Wrapped.Algorithm says of keys wrapped here.
const Algorithm = "XAES-256-GCM"

const maxPlaintext = 190 // bytes, as for a customer's RSA key of 2048 bits

type key struct {
	path   string
	closed bool
}

// Open returns the key in the file. It does not read it yet: each operation does
// and fails if the file is missing, damaged or readable by others. Errors are
// *hsm.Error.
func Open(_ context.Context, cfg hsm.PlatformConfig) (hsm.Key, error) {
	if cfg.KeyFile == "" {
		return nil, &hsm.Error{Op: "open", Kind: hsm.KindMisconfigured, Reason: "NoKeyFile", Message: "No platform key file is configured"}
	}
	return &key{path: cfg.KeyFile}, nil
}

// load reads the key and its id, by which a replaced file is told from a
// damaged ciphertext. The id is a commitment and tells nothing about the key.
func (k *key) load(ctx context.Context, op string) (crypto.Key, string, error) {
	if k.closed {
		return crypto.Key{}, "", &hsm.Error{Op: op, KeyID: k.path, Kind: hsm.KindMisconfigured, Reason: "Closed", Message: "The key has been closed"}
	}
	if err := ctx.Err(); err != nil {
		return crypto.Key{}, "", &hsm.Error{Op: op, KeyID: k.path, Kind: hsm.KindUnreachable, Reason: "Deadline", Message: "The key operation was given up", Err: err}
	}
	secret, err := read(k.path)
	if err != nil {
		var e *hsm.Error
		if errors.As(err, &e) {
			e.Op = op
		}
		return crypto.Key{}, "", err
	}
	id := crypto.Commit(secret, []byte("platform key id"))
	return secret, "platform:" + hex.EncodeToString(id[:8]), nil
}

func (k *key) Info(ctx context.Context) (hsm.Info, error) {
	secret, id, err := k.load(ctx, "get")
	if err != nil {
		return hsm.Info{}, err
	}
	clear(secret[:])
	return hsm.Info{KeyID: id, Type: hsm.TypePlatform, Bits: 8 * crypto.KeySize, Enabled: true}, nil
}

func (k *key) Wrap(ctx context.Context, plaintext []byte) (hsm.Wrapped, error) {
	if len(plaintext) > maxPlaintext {
		return hsm.Wrapped{}, &hsm.Error{Op: "encrypt", KeyID: k.path, Kind: hsm.KindMisconfigured, Reason: "TooLong", Message: "More than 190 bytes cannot be wrapped"}
	}
	secret, id, err := k.load(ctx, "encrypt")
	if err != nil {
		return hsm.Wrapped{}, err
	}
	defer clear(secret[:])
	return hsm.Wrapped{KeyID: id, Algorithm: Algorithm, Ciphertext: box(secret).Seal(nil, plaintext, []byte(id))}, nil
}

func (k *key) Unwrap(ctx context.Context, w hsm.Wrapped) ([]byte, error) {
	secret, id, err := k.load(ctx, "decrypt")
	if err != nil {
		return nil, err
	}
	defer clear(secret[:])
	fail := func(reason, message string, err error) ([]byte, error) {
		return nil, &hsm.Error{Op: "decrypt", KeyID: w.KeyID, Kind: hsm.KindMisconfigured, Reason: reason, Message: message, Err: err}
	}
	switch {
	case w.Algorithm != Algorithm:
		return fail("Algorithm", "The wrapped key was made by an unknown algorithm", nil)
	case w.KeyID != id:
		return fail("KeyReplaced", "The platform key file is not the one that wrapped this key", nil)
	}
	plaintext, err := box(secret).Open(nil, w.Ciphertext, []byte(id))
	if err != nil {
		return fail("BadCiphertext", "The wrapped key is damaged", err)
	}
	return plaintext, nil
}

// Close ends the use of the key; there is nothing to release.
func (k *key) Close() error {
	k.closed = true
	return nil
}

// box is a sub-key for wrapping, so that the file's key serves one purpose per
// derived key (its id is another).
func box(secret crypto.Key) *crypto.Box {
	sub := crypto.Derive(secret, "platform wrap")
	defer clear(sub[:])
	return crypto.NewBox(sub)
}
