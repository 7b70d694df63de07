package crypto

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"sync"
)

// PageTagger computes the tags of numbered pages, by which the page that was
// tagged under a number is recognized, and no other: HMAC-SHA256 of number and
// page, cut to TagSize bytes. There is no nonce that could repeat when a page
// changes and is tagged again. Methods may be called concurrently.
type PageTagger struct {
	macs sync.Pool // of hash.Hash, keyed
}

// NewPageTagger returns the PageTagger of a key that serves nothing else.
func NewPageTagger(k Key) *PageTagger {
	return &PageTagger{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, k[:]) }}}
}

// Tag appends the tag of page n, TagSize bytes, to dst.
func (t *PageTagger) Tag(dst []byte, n uint64, page []byte) []byte {
	mac := t.macs.Get().(hash.Hash)
	defer t.macs.Put(mac)
	mac.Reset()
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], n)
	mac.Write(number[:])
	mac.Write(page)
	var sum [sha256.Size]byte
	return append(dst, mac.Sum(sum[:0])[:TagSize]...)
}

// Format implements fmt.Formatter, so that no verb prints key material.
func (t *PageTagger) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }
