package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
)

// ErrAuth reports that sealed bytes are not what was sealed: they or their
// associated data were changed, or another key made them.
var ErrAuth = errors.New("crypto: authentication failed")

const (
	// TagSize is the length of an authentication tag in bytes.
	TagSize = 16
	// BoxNonceSize is the length of a Box's nonce in bytes.
	BoxNonceSize = 24
	// BoxOverhead is what a Box adds to a plaintext, in bytes: nonce and tag.
	BoxOverhead = BoxNonceSize + TagSize
)

// Box seals messages with XAES-256-GCM as published by C2SP: AES-256-GCM under
// a key derived from half of a random 192-bit nonce. A key may seal 2^80
// messages before two random nonces are likely to meet, so one key serves for
// the life of a volume. A sealed message is nonce, ciphertext, tag. Methods may
// be called concurrently.
type Box struct {
	aes cipher.Block
	k1  [aes.BlockSize]byte // CMAC subkey of the derivation's full block
}

// NewBox returns the Box of a key.
func NewBox(k Key) *Box {
	b := &Box{aes: newAES(k[:])}
	b.k1, _ = cmacSubkeys(b.aes)
	return b
}

// Seal appends a random nonce and the sealed plaintext to dst. dst's spare
// capacity must not overlap plaintext.
func (b *Box) Seal(dst, plaintext, ad []byte) []byte {
	var nonce [BoxNonceSize]byte
	rand.Read(nonce[:])
	return b.sealNonce(append(dst, nonce[:]...), nonce[:], plaintext, ad)
}

// Open appends the plaintext of what Seal made to dst. It fails with ErrAuth,
// and then leaves nothing readable in dst's spare capacity.
func (b *Box) Open(dst, sealed, ad []byte) ([]byte, error) {
	if len(sealed) < BoxOverhead {
		return nil, ErrAuth
	}
	nonce, rest := sealed[:BoxNonceSize], sealed[BoxNonceSize:]
	out, err := b.gcm(nonce).Open(dst, nonce[12:], rest, ad)
	if err != nil {
		return nil, ErrAuth
	}
	return out, nil
}

// Format implements fmt.Formatter, so that no verb prints the subkey.
func (b *Box) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

func (b *Box) sealNonce(dst, nonce, plaintext, ad []byte) []byte {
	return b.gcm(nonce).Seal(dst, nonce[12:], plaintext, ad)
}

// gcm derives the key of one nonce: two CMACs over "counter, label X, 0, first
// half of the nonce", each exactly one block and so a single AES call.
func (b *Box) gcm(nonce []byte) cipher.AEAD {
	var key [KeySize]byte
	for i := range 2 {
		m := key[i*aes.BlockSize : (i+1)*aes.BlockSize]
		m[1], m[2] = byte(i+1), 'X'
		copy(m[4:], nonce[:12])
		for j := range m {
			m[j] ^= b.k1[j]
		}
		b.aes.Encrypt(m, m)
	}
	return newGCM(newAES(key[:]))
}

func newAES(key []byte) cipher.Block {
	c, err := aes.NewCipher(key)
	if err != nil {
		panic("crypto: AES refused a key of 32 bytes: " + err.Error())
	}
	return c
}

func newGCM(c cipher.Block) cipher.AEAD {
	g, err := cipher.NewGCM(c)
	if err != nil {
		panic("crypto: AES is not usable with GCM: " + err.Error())
	}
	return g
}
