package crypto

// SealedKeySize is the length of what SealKey returns, in bytes.
const SealedKeySize = BoxOverhead + KeySize

// SealKey seals k under a key derived from wrapping for this alone, with
// XAES-256-GCM. ad must name what k is for; OpenKey needs the same.
func SealKey(wrapping Key, k Key, ad []byte) []byte {
	return wrapBox(wrapping).Seal(nil, k[:], ad)
}

// OpenKey returns the key that SealKey sealed, or fails with ErrAuth.
func OpenKey(wrapping Key, sealed, ad []byte) (Key, error) {
	if len(sealed) != SealedKeySize {
		return Key{}, ErrAuth
	}
	b, err := wrapBox(wrapping).Open(nil, sealed, ad)
	if err != nil {
		return Key{}, err
	}
	return Key(b), nil
}

func wrapBox(wrapping Key) *Box { return NewBox(Derive(wrapping, "key wrap")) }
