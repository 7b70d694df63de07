package crypto

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
)

// Sequence seals numbered messages with AES-256-GCM; the nonce is the number:
// 12 bytes, big-endian. The key must belong to this one sequence, and no
// number may be sealed twice under it; derive a new key after any
// interruption. A sealed message is ciphertext and tag. Methods may be called
// concurrently.
type Sequence struct {
	aead cipher.AEAD
}

// NewSequence returns the Sequence of a key that no other one has.
func NewSequence(k Key) *Sequence { return &Sequence{aead: newGCM(newAES(k[:]))} }

// Seal appends message n, sealed, to dst. It works in place: dst may be
// plaintext[:0], and needs TagSize bytes of spare capacity not to be moved.
// Any other overlap panics.
func (s *Sequence) Seal(dst []byte, n uint64, plaintext, ad []byte) []byte {
	nonce := sequenceNonce(n)
	return s.aead.Seal(dst, nonce[:], plaintext, ad)
}

// Open appends the plaintext of message n to dst, which may be sealed[:0]. It
// fails with ErrAuth, and then leaves nothing readable in dst's spare capacity.
func (s *Sequence) Open(dst []byte, n uint64, sealed, ad []byte) ([]byte, error) {
	nonce := sequenceNonce(n)
	out, err := s.aead.Open(dst, nonce[:], sealed, ad)
	if err != nil {
		return nil, ErrAuth
	}
	return out, nil
}

// Format implements fmt.Formatter, so that no verb prints key material.
func (s *Sequence) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

func sequenceNonce(n uint64) [12]byte {
	var nonce [12]byte
	binary.BigEndian.PutUint64(nonce[4:], n)
	return nonce
}
