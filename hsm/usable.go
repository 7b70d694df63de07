package hsm

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// MinBits is the shortest RSA modulus accepted for a customer's key.
const MinBits = 2048

// Usable says whether a key with these attributes can become (or replace) a
// customer-managed key at the time now; the error is nil or an *Error with a
// Condition. A key in use is judged by unwrapping instead: an expired one still
// unwraps.
func (i Info) Usable(now time.Time) error {
	if i.Type == TypePlatform {
		return nil
	}
	vault := !strings.HasPrefix(i.KeyID, "pkcs11:")
	fail := func(k Kind, reason string, inVault, onToken Condition, detail, seen string) error {
		c := inVault
		if !vault {
			c = onToken
		}
		e := &Error{Op: "get", KeyID: i.KeyID, Kind: k, Reason: reason, Condition: c, Message: c.Error()}
		if detail != "" {
			e.Message = c.Because(detail)
		}
		if i.Answer != "" {
			seen = i.Answer + ", " + seen
		}
		e.Err = errors.New(seen)
		return e
	}
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case i.Problem != "":
		return &Error{Op: "get", KeyID: i.KeyID, Kind: KindDenied, Condition: Unusable, Reason: "Unreadable", Message: i.Problem}
	case i.Type != TypeRSA && i.Type != TypeRSAHSM:
		return fail(KindMisconfigured, "NotRSA", KeyNotRSA, TokenKeyNotRSA, "", fmt.Sprintf("key type %q", i.Type))
	case i.Bits < MinBits:
		return fail(KindMisconfigured, "KeyTooShort", KeyNotRSA, TokenKeyNotRSA, fmt.Sprintf("it has fewer than %d bits", MinBits), fmt.Sprintf("%d bits", i.Bits))
	case !i.Enabled && vault:
		return fail(KindDenied, "KeyDisabled", KeyNotEnabled, "", "", "enabled is false")
	case !i.Enabled:
		return fail(KindDenied, "KeyOperationForbidden", "", TokenKeyForbidden, "", "CKA_DECRYPT and CKA_UNWRAP are false")
	case !i.Expires.IsZero() && !now.Before(i.Expires):
		return fail(KindDenied, "KeyExpired", KeyExpired, TokenKeyExpired, "", "it expired at "+stamp(i.Expires))
	case !i.NotBefore.IsZero() && now.Before(i.NotBefore):
		return fail(KindDenied, "KeyNotActive", KeyNotActive, TokenKeyNotActive, "", "it becomes active at "+stamp(i.NotBefore))
	case i.RecoveryLevel != "" && !recoverable[i.RecoveryLevel]:
		return fail(KindMisconfigured, "NotRecoverable", NotRecoverable, "", "", "recovery level "+i.RecoveryLevel)
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
