// Package pkcs11 is the customer's key on a PKCS#11 token: a hardware security
// module, a smart card, SoftHSM.
//
// The module (the vendor's shared library) is loaded, initialised, logged in
// to, finalised and unloaded again for every operation. That costs a few
// milliseconds and is what makes an answer mean something: SoftHSM, for one,
// goes on decrypting from memory after its token's files are gone. It also
// leaves no session behind on a token that counts them. One module is used at
// a time in a process. A module that hangs cannot be interrupted, so this
// package runs in the key agent, which is killed then.
//
// The PIN is named by the URI's pin-source and read anew each time. A PIN that
// the token refused is never sent again until the content of its source
// changes, because tokens lock after a few attempts; see pinguard.go.
//
// A key that wants the PIN before each use (CKA_ALWAYS_AUTHENTICATE) gets it
// when it decrypts; not on SoftHSM, which would have to write then, see
// readonly.go.
//
// Encrypting needs only the public key, so it is done here with the token's
// modulus; decrypting is done by the token. OAEP is tried with SHA-256 and, if
// the module does not know it (SoftHSM 2.6.1), with SHA-1; Wrapped.Algorithm
// keeps which. Every new ciphertext is decrypted once before it is returned.
//
// What is seen, and how it is classed (hsm.Kind):
//
//	wrong, locked, expired or refused PIN           denied         CKR_PIN_*
//	one attempt left before the token locks         denied         PINFinalTry
//	no such key on the token, after logging in      denied         KeyNotFound
//	key without CKA_DECRYPT and CKA_UNWRAP          denied         KeyOperationForbidden
//	token absent: pulled out, its files removed,    unreachable    TokenAbsent
//	  unknown label or serial, no slot at all
//	CKR_DEVICE_*, CKR_TOKEN_NOT_PRESENT,            unreachable    the CKR_ name
//	  CKR_GENERAL_ERROR and everything unknown
//	module cannot be loaded, bad URI, no PIN file   misconfigured  ModuleNotLoadable, BadURI, PINSource
//	not RSA, fewer than 2048 bits, two keys match   misconfigured  NotRSA, KeyTooShort, AmbiguousKey
//	ciphertext the key does not open                misconfigured  BadCiphertext
//
// An absent token is not a denial: a network HSM that cannot be reached, a
// reader that was reset and a token that was taken away look the same from
// here, so the lease runs down instead of ending at once. A token that is there
// and no longer has the key does answer, and its answer is no.
package pkcs11
