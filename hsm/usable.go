package hsm

import (
	"strings"
	"time"
)

// MinBits is the shortest RSA modulus accepted for a customer's key.
const MinBits = 2048

// Usable says whether a key with these attributes can become (or replace) a
// customer-managed key at the time now; the error is nil or an *Error with the
// document's sentence. A key in use is judged by unwrapping instead: an expired
// one still unwraps.
func (i Info) Usable(now time.Time) error {
	fail := func(k Kind, reason, message string) error {
		return &Error{Op: "get", KeyID: i.KeyID, Kind: k, Reason: reason, Message: message}
	}
	if i.Type == TypePlatform {
		return nil
	}
	key, token := "Azure Key Vault key", strings.HasPrefix(i.KeyID, "pkcs11:")
	if token {
		key = "PKCS#11 key"
	}
	switch {
	case i.Type != TypeRSA && i.Type != TypeRSAHSM:
		return fail(KindMisconfigured, "NotRSA", key+" is not a valid RSA key")
	case i.Bits < MinBits:
		return fail(KindMisconfigured, "KeyTooShort", key+" is not a valid RSA key: it has fewer than 2048 bits")
	case !i.Enabled && token:
		return fail(KindDenied, "KeyOperationForbidden", key+" may not be used to decrypt or unwrap")
	case !i.Enabled:
		return fail(KindDenied, "KeyDisabled", key+" is not enabled")
	case !i.Expires.IsZero() && !now.Before(i.Expires):
		return fail(KindDenied, "KeyExpired", key+" is expired")
	case !i.NotBefore.IsZero() && now.Before(i.NotBefore):
		return fail(KindDenied, "KeyNotActive", key+" has not been activated")
	case i.RecoveryLevel != "" && !recoverable[i.RecoveryLevel]:
		return fail(KindMisconfigured, "NotRecoverable", "Azure Key Vault is not recoverable. Make sure that Soft-delete and Purge protection are both enabled on the Azure Key Vault")
	}
	return nil
}

// Key types as Info.Type has them.
const (
	TypeRSA      = "RSA"
	TypeRSAHSM   = "RSA-HSM"
	TypePlatform = "platform"
)

// recoverable has the recovery levels under which nobody can purge a key.
var recoverable = map[string]bool{
	"Recoverable":                                 true,
	"Recoverable+ProtectedSubscription":           true,
	"CustomizedRecoverable":                       true,
	"CustomizedRecoverable+ProtectedSubscription": true,
}
