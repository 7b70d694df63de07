package crypto

import (
	"crypto/cipher"
	"fmt"
	"io"
)

// PageTagger computes secret tags of numbered pages, to recognize the page that
// was tagged under a number and no other. A tag is that of AES-256-GCM with an
// empty plaintext, the page as associated data and the number as nonce.
//
// The same number is tagged again when its page changes. For a tag that is
// shown that would be fatal: two tags under one nonce reveal the key of the
// hash. These are never shown. Whoever keeps them must seal them, and then they
// are values of a universal hash whose key nobody can learn: a page that was
// not tagged matches with a chance of about 2^-120. What that buys is speed,
// five times that of HMAC-SHA256. Methods may be called concurrently.
type PageTagger struct {
	aead cipher.AEAD
}

// NewPageTagger returns the PageTagger of a key that serves nothing else.
func NewPageTagger(k Key) *PageTagger { return &PageTagger{aead: newGCM(newAES(k[:]))} }

// Tag appends the tag of page n, TagSize bytes, to dst.
func (t *PageTagger) Tag(dst []byte, n uint64, page []byte) []byte {
	nonce := sequenceNonce(n)
	return t.aead.Seal(dst, nonce[:], nil, page)
}

// Format implements fmt.Formatter, so that no verb prints key material.
func (t *PageTagger) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }
