package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"cmkfs/hsm"
)

// class is what a PKCS#11 return value means for us.
type class struct {
	name      string
	kind      hsm.Kind
	condition hsm.Condition // "" = none
	detail    string        // which of the condition's causes, or the whole sentence
}

// classes has every return value that is not simply "no answer". It follows the
// table in the package documentation.
var classes = map[p11.Error]class{
	p11.CKR_PIN_INCORRECT:              {"CKR_PIN_INCORRECT", hsm.KindDenied, hsm.TokenPINRefused, wrongPIN},
	p11.CKR_PIN_INVALID:                {"CKR_PIN_INVALID", hsm.KindDenied, hsm.TokenPINRefused, wrongPIN},
	p11.CKR_PIN_LEN_RANGE:              {"CKR_PIN_LEN_RANGE", hsm.KindDenied, hsm.TokenPINRefused, wrongPIN},
	p11.CKR_PIN_EXPIRED:                {"CKR_PIN_EXPIRED", hsm.KindDenied, hsm.TokenPINRefused, "the PIN has expired"},
	p11.CKR_PIN_LOCKED:                 {"CKR_PIN_LOCKED", hsm.KindDenied, hsm.TokenPINRefused, lockedPIN},
	p11.CKR_USER_NOT_LOGGED_IN:         {"CKR_USER_NOT_LOGGED_IN", hsm.KindDenied, hsm.TokenPINRefused, "it requires a PIN for this key"},
	p11.CKR_USER_PIN_NOT_INITIALIZED:   {"CKR_USER_PIN_NOT_INITIALIZED", hsm.KindDenied, hsm.TokenPINRefused, "it has no user PIN yet"},
	p11.CKR_USER_TYPE_INVALID:          {"CKR_USER_TYPE_INVALID", hsm.KindDenied, hsm.TokenPINRefused, "it has no such user"},
	p11.CKR_KEY_FUNCTION_NOT_PERMITTED: {"CKR_KEY_FUNCTION_NOT_PERMITTED", hsm.KindDenied, hsm.TokenKeyForbidden, ""},
	p11.CKR_KEY_HANDLE_INVALID:         {"CKR_KEY_HANDLE_INVALID", hsm.KindDenied, hsm.TokenKeyNotFound, ""},
	p11.CKR_OBJECT_HANDLE_INVALID:      {"CKR_OBJECT_HANDLE_INVALID", hsm.KindDenied, hsm.TokenKeyNotFound, ""},

	p11.CKR_KEY_TYPE_INCONSISTENT:    {"CKR_KEY_TYPE_INCONSISTENT", hsm.KindMisconfigured, hsm.TokenKeyNotRSA, ""},
	p11.CKR_KEY_SIZE_RANGE:           {"CKR_KEY_SIZE_RANGE", hsm.KindMisconfigured, hsm.TokenKeyNotRSA, "the token cannot use a key of this size"},
	p11.CKR_ENCRYPTED_DATA_INVALID:   {"CKR_ENCRYPTED_DATA_INVALID", hsm.KindMisconfigured, "", msgBadCiphertext},
	p11.CKR_ENCRYPTED_DATA_LEN_RANGE: {"CKR_ENCRYPTED_DATA_LEN_RANGE", hsm.KindMisconfigured, "", msgBadCiphertext},
	p11.CKR_WRAPPED_KEY_INVALID:      {"CKR_WRAPPED_KEY_INVALID", hsm.KindMisconfigured, "", msgBadCiphertext},
	p11.CKR_WRAPPED_KEY_LEN_RANGE:    {"CKR_WRAPPED_KEY_LEN_RANGE", hsm.KindMisconfigured, "", msgBadCiphertext},
	p11.CKR_MECHANISM_INVALID:        {"CKR_MECHANISM_INVALID", hsm.KindMisconfigured, "", msgNoOAEP},
	p11.CKR_MECHANISM_PARAM_INVALID:  {"CKR_MECHANISM_PARAM_INVALID", hsm.KindMisconfigured, "", msgNoOAEP},
	p11.CKR_ARGUMENTS_BAD:            {"CKR_ARGUMENTS_BAD", hsm.KindMisconfigured, "", msgNoOAEP},
	p11.CKR_TOKEN_NOT_PRESENT:        {"CKR_TOKEN_NOT_PRESENT", hsm.KindUnreachable, hsm.TokenAbsent, ""},
	p11.CKR_TOKEN_NOT_RECOGNIZED:     {"CKR_TOKEN_NOT_RECOGNIZED", hsm.KindUnreachable, hsm.TokenAbsent, "it is not recognised"},
	p11.CKR_DEVICE_REMOVED:           {"CKR_DEVICE_REMOVED", hsm.KindUnreachable, hsm.TokenAbsent, "it was removed"},
	p11.CKR_SLOT_ID_INVALID:          {"CKR_SLOT_ID_INVALID", hsm.KindUnreachable, hsm.TokenAbsent, "its slot is gone"},
	p11.CKR_DEVICE_ERROR:             {"CKR_DEVICE_ERROR", hsm.KindUnreachable, hsm.TokenUnanswered, ""},
	p11.CKR_GENERAL_ERROR:            {"CKR_GENERAL_ERROR", hsm.KindUnreachable, hsm.TokenUnanswered, ""},
	p11.CKR_FUNCTION_FAILED:          {"CKR_FUNCTION_FAILED", hsm.KindUnreachable, hsm.TokenUnanswered, ""},
}

const (
	wrongPIN         = "the PIN is wrong; it is not tried again before the content of the PIN file changes"
	lockedPIN        = "it is locked after too many wrong PINs"
	msgBadCiphertext = "The wrapped key is damaged or was wrapped by another key"
	msgNoOAEP        = "The PKCS#11 token does not support RSA-OAEP"
)

// refuse makes an *hsm.Error of a condition; detail may be "".
func refuse(op, keyID string, kind hsm.Kind, reason string, c hsm.Condition, detail string, err error) *hsm.Error {
	e := &hsm.Error{Op: op, KeyID: keyID, Kind: kind, Condition: c, Reason: reason, Message: c.Error(), Err: err}
	switch {
	case c == "":
		e.Message = detail
	case detail != "":
		e.Message = c.Because(detail)
	}
	return e
}

// classify turns what the module returned into an *hsm.Error, which err may be
// already.
func classify(op, keyID string, err error) *hsm.Error {
	var e *hsm.Error
	if errors.As(err, &e) {
		return e
	}
	var code p11.Error
	if !errors.As(err, &code) {
		return refuse(op, keyID, hsm.KindUnreachable, "", hsm.TokenUnanswered, "", err)
	}
	c, ok := classes[code]
	if !ok {
		c = class{code.Error(), hsm.KindUnreachable, hsm.TokenUnanswered, ""}
	}
	return refuse(op, keyID, c.kind, c.name, c.condition, c.detail, fmt.Errorf("the module returned 0x%X: %w", uint(code), err))
}

// is reports whether err is one of the codes.
func is(err error, codes ...p11.Error) bool {
	for _, c := range codes {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}
