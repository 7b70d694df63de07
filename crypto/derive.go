package crypto

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
)

// CommitSize is the length of a key commitment in bytes.
const CommitSize = 32

// derivePrefix separates the keys of this program and of this version of its
// formats from every other use of HKDF with the same secret.
const derivePrefix = "cmkfs/v1"

// Derive returns the key that k yields for a purpose and its context, with
// HKDF-SHA256 (RFC 5869): no salt, since k is uniformly random already, and as
// info the prefix "cmkfs/v1" followed by purpose and every context element,
// each preceded by its length as 4 bytes, big-endian. The lengths make the
// encoding injective: no two lists of arguments share a key.
func Derive(k Key, purpose string, context ...[]byte) Key {
	info := make([]byte, 0, 128)
	info = append(info, derivePrefix...)
	info = appendSized(info, []byte(purpose))
	for _, c := range context {
		info = appendSized(info, c)
	}
	out, err := hkdf.Key(sha256.New, k[:], nil, string(info), KeySize)
	if err != nil {
		panic("crypto: HKDF-SHA256 refused a 32-byte output: " + err.Error())
	}
	return Key(out)
}

func appendSized(dst, b []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(b)))
	return append(dst, b...)
}

// Commit returns a 32-byte value that k alone yields for the context. AES-GCM
// does not commit to its key: a ciphertext can be made that opens under two.
// Comparing the commitment stored beside a wrapped key with that of the key
// unwrapped tells a wrong key apart from damaged data. It reveals nothing
// about k.
func Commit(k Key, context []byte) []byte {
	c := Derive(k, "key commitment", context)
	return c[:]
}

// CheckCommit reports, in constant time, whether commitment belongs to k and
// context.
func CheckCommit(k Key, context, commitment []byte) bool {
	return subtle.ConstantTimeCompare(Commit(k, context), commitment) == 1
}
