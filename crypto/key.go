package crypto

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// KeySize is the length of every key in bytes.
const KeySize = 32

// redacted is what every printed form of a key consists of.
const redacted = "[redacted]"

// Key is a 256-bit secret. It prints as "[redacted]" under every fmt verb, in
// log/slog and as JSON or text. The fmt package does not call methods on
// unexported struct fields, so a type that keeps a Key in one and may be
// printed needs a Format method of its own.
type Key [KeySize]byte

// NewKey returns a random key. It cannot fail: without a working random source
// the Go runtime ends the process.
func NewKey() Key {
	var k Key
	rand.Read(k[:])
	return k
}

// KeyFromBytes copies a key out of b, which must be KeySize bytes long.
func KeyFromBytes(b []byte) (Key, error) {
	if len(b) != KeySize {
		return Key{}, fmt.Errorf("crypto: a key has %d bytes, not %d", KeySize, len(b))
	}
	return Key(b), nil
}

// Equal compares two keys in constant time.
func (k Key) Equal(other Key) bool { return subtle.ConstantTimeCompare(k[:], other[:]) == 1 }

// Format implements fmt.Formatter: every verb prints "[redacted]".
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// String implements fmt.Stringer for callers that do not go through fmt.
func (k Key) String() string { return redacted }

// GoString implements fmt.GoStringer, for the same reason.
func (k Key) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which also covers JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText always fails: keys are never read from text.
func (k *Key) UnmarshalText([]byte) error {
	return errors.New("crypto: a key cannot be read from text")
}
