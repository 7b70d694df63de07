package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// MinNameHash is the smallest value NameHash returns: lower numbers are
	// free for the cookies of "." and "..".
	MinNameHash = 16
	// MaxNameHash bounds the values of NameHash from above, exclusively: the
	// kernel, and NFS beyond it, take readdir cookies as signed 64-bit numbers.
	MaxNameHash = 1 << 62
)

// NameHasher maps the names in directories to numbers, which serve as keys of
// the index and as readdir cookies. Without the key nothing about a name can be
// told from its number, and nobody can make names that collide on purpose.
// Methods may be called concurrently.
//
// The function is AES-256-CMAC. Like HMAC-SHA256 it is a pseudorandom function
// on messages of any length; on the short messages that names are, it costs a
// tenth: one AES call per 16 bytes against four rounds of SHA-256. Two of n
// names in one directory share a number with probability n²/2^63, one in nine
// million for a million names: callers must handle it, but need not be fast.
type NameHasher struct {
	aes    cipher.Block
	k1, k2 [aes.BlockSize]byte
}

// NewNameHasher returns the NameHasher of a key that nothing else uses.
func NewNameHasher(k Key) *NameHasher {
	h := &NameHasher{aes: newAES(k[:])}
	h.k1, h.k2 = cmacSubkeys(h.aes)
	return h
}

// NameHash returns the number of name in the directory parent, at least
// MinNameHash and below MaxNameHash: the first 8 bytes of the CMAC over
// parent, 8 bytes big-endian, and name, reduced modulo the size of that range.
func (h *NameHasher) NameHash(parent uint64, name string) uint64 {
	msg := make([]byte, 0, 8+255)
	msg = binary.BigEndian.AppendUint64(msg, parent)
	msg = append(msg, name...)
	sum := cmac(h.aes, &h.k1, &h.k2, msg)
	return MinNameHash + binary.BigEndian.Uint64(sum[:8])%(MaxNameHash-MinNameHash)
}

// Format implements fmt.Formatter, so that no verb prints the subkeys.
func (h *NameHasher) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }
