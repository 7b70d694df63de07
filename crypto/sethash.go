package crypto

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"sync"
)

// SetHash is the hash of a multiset of records: the sum modulo 2^256 of its
// elements' hashes, as a big-endian number. The zero value is the hash of the
// empty set. Order does not matter, and adding and removing one element costs
// the same for any size of set.
type SetHash [32]byte

// Add returns the hash of the union.
func (s SetHash) Add(other SetHash) SetHash {
	var out SetHash
	var carry uint64
	for i := 24; i >= 0; i -= 8 {
		var w uint64
		w, carry = bits.Add64(binary.BigEndian.Uint64(s[i:]), binary.BigEndian.Uint64(other[i:]), carry)
		binary.BigEndian.PutUint64(out[i:], w)
	}
	return out
}

// Sub returns the hash with the elements of other taken out.
func (s SetHash) Sub(other SetHash) SetHash {
	var out SetHash
	var borrow uint64
	for i := 24; i >= 0; i -= 8 {
		var w uint64
		w, borrow = bits.Sub64(binary.BigEndian.Uint64(s[i:]), binary.BigEndian.Uint64(other[i:]), borrow)
		binary.BigEndian.PutUint64(out[i:], w)
	}
	return out
}

// SetHasher hashes the elements of sets. It is the MSet-Add-Hash of Clarke et
// al. ("Incremental multiset hash functions", 2003) with HMAC-SHA256 as the
// keyed function. Two different sets with equal hashes cannot be found without
// the key, as long as the hashes themselves stay secret or authenticated: keep
// them sealed. (Without a key, sums of hashes fall to the generalized birthday
// attack.) Methods may be called concurrently.
type SetHasher struct {
	macs sync.Pool // of hash.Hash, keyed: setting up an HMAC costs as much as using it
}

// NewSetHasher returns the SetHasher of a key that nothing else uses.
func NewSetHasher(k Key) *SetHasher {
	return &SetHasher{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, k[:]) }}}
}

// Element returns the hash of the set with one record: HMAC-SHA256 over the
// table's number, the length of the key as 8 bytes big-endian, the key and the
// sealed value.
func (h *SetHasher) Element(table byte, key, sealedValue []byte) SetHash {
	mac := h.macs.Get().(hash.Hash)
	defer h.macs.Put(mac)
	mac.Reset()
	var head [9]byte
	head[0] = table
	binary.BigEndian.PutUint64(head[1:], uint64(len(key)))
	mac.Write(head[:])
	mac.Write(key)
	mac.Write(sealedValue)
	var out SetHash
	mac.Sum(out[:0])
	return out
}

// Format implements fmt.Formatter, so that no verb prints key material.
func (h *SetHasher) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }
