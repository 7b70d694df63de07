package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// cmacSubkeys returns K1 and K2 of AES-CMAC (NIST SP 800-38B, RFC 4493): the
// encryption of zero, doubled once and twice in GF(2^128).
func cmacSubkeys(c cipher.Block) (k1, k2 [aes.BlockSize]byte) {
	var l [aes.BlockSize]byte
	c.Encrypt(l[:], l[:])
	k1 = double(l)
	k2 = double(k1)
	return k1, k2
}

// double multiplies by x in GF(2^128), without a branch on secret bits.
func double(b [aes.BlockSize]byte) [aes.BlockSize]byte {
	var out [aes.BlockSize]byte
	var carry byte
	for i := aes.BlockSize - 1; i >= 0; i-- {
		out[i] = b[i]<<1 | carry
		carry = b[i] >> 7
	}
	out[aes.BlockSize-1] ^= carry * 0x87
	return out
}

// cmac returns AES-CMAC of msg.
func cmac(c cipher.Block, k1, k2 *[aes.BlockSize]byte, msg []byte) [aes.BlockSize]byte {
	var x [aes.BlockSize]byte
	for len(msg) > aes.BlockSize {
		subtle.XORBytes(x[:], x[:], msg[:aes.BlockSize])
		c.Encrypt(x[:], x[:])
		msg = msg[aes.BlockSize:]
	}
	n := subtle.XORBytes(x[:], x[:], msg)
	if n == aes.BlockSize {
		subtle.XORBytes(x[:], x[:], k1[:])
	} else {
		x[n] ^= 0x80
		subtle.XORBytes(x[:], x[:], k2[:])
	}
	c.Encrypt(x[:], x[:])
	return x
}
