package crypto

import "crypto/aes"

// SealWithNonce is Box.Seal with a given nonce, which it does not return.
func SealWithNonce(k Key, nonce, plaintext, ad []byte) []byte {
	return NewBox(k).sealNonce(nil, nonce, plaintext, ad)
}

// CMAC is the raw AES-CMAC under a key of any AES size.
func CMAC(key, msg []byte) [aes.BlockSize]byte {
	c := newAES(key)
	k1, k2 := cmacSubkeys(c)
	return cmac(c, &k1, &k2, msg)
}
