package pkcs11

import (
	"errors"

	p11 "github.com/miekg/pkcs11"

	"cmkfs/hsm"
)

// class is what a PKCS#11 return value means for us.
type class struct {
	name    string
	kind    hsm.Kind
	message string
}

const msgUnanswered = "The PKCS#11 token did not answer"

// classes has every return value that is not simply "no answer". It follows the
// table in the package documentation.
var classes = map[p11.Error]class{
	p11.CKR_PIN_INCORRECT:              {"CKR_PIN_INCORRECT", hsm.KindDenied, msgPINRefused},
	p11.CKR_PIN_INVALID:                {"CKR_PIN_INVALID", hsm.KindDenied, msgPINRefused},
	p11.CKR_PIN_LEN_RANGE:              {"CKR_PIN_LEN_RANGE", hsm.KindDenied, msgPINRefused},
	p11.CKR_PIN_EXPIRED:                {"CKR_PIN_EXPIRED", hsm.KindDenied, "The PIN of the PKCS#11 token has expired"},
	p11.CKR_PIN_LOCKED:                 {"CKR_PIN_LOCKED", hsm.KindDenied, "The PKCS#11 token is locked after too many wrong PINs"},
	p11.CKR_USER_NOT_LOGGED_IN:         {"CKR_USER_NOT_LOGGED_IN", hsm.KindDenied, "The PKCS#11 token requires a PIN for this key"},
	p11.CKR_USER_PIN_NOT_INITIALIZED:   {"CKR_USER_PIN_NOT_INITIALIZED", hsm.KindDenied, "The PKCS#11 token has no user PIN yet"},
	p11.CKR_USER_TYPE_INVALID:          {"CKR_USER_TYPE_INVALID", hsm.KindDenied, "The PKCS#11 token does not let a user log in"},
	p11.CKR_KEY_FUNCTION_NOT_PERMITTED: {"CKR_KEY_FUNCTION_NOT_PERMITTED", hsm.KindDenied, msgNotPermitted},
	p11.CKR_KEY_HANDLE_INVALID:         {"CKR_KEY_HANDLE_INVALID", hsm.KindDenied, msgKeyNotFound},
	p11.CKR_OBJECT_HANDLE_INVALID:      {"CKR_OBJECT_HANDLE_INVALID", hsm.KindDenied, msgKeyNotFound},

	p11.CKR_KEY_TYPE_INCONSISTENT:    {"CKR_KEY_TYPE_INCONSISTENT", hsm.KindMisconfigured, msgNotRSA},
	p11.CKR_KEY_SIZE_RANGE:           {"CKR_KEY_SIZE_RANGE", hsm.KindMisconfigured, "The PKCS#11 token cannot use a key of this size"},
	p11.CKR_ENCRYPTED_DATA_INVALID:   {"CKR_ENCRYPTED_DATA_INVALID", hsm.KindMisconfigured, msgBadCiphertext},
	p11.CKR_ENCRYPTED_DATA_LEN_RANGE: {"CKR_ENCRYPTED_DATA_LEN_RANGE", hsm.KindMisconfigured, msgBadCiphertext},
	p11.CKR_WRAPPED_KEY_INVALID:      {"CKR_WRAPPED_KEY_INVALID", hsm.KindMisconfigured, msgBadCiphertext},
	p11.CKR_WRAPPED_KEY_LEN_RANGE:    {"CKR_WRAPPED_KEY_LEN_RANGE", hsm.KindMisconfigured, msgBadCiphertext},
	p11.CKR_MECHANISM_INVALID:        {"CKR_MECHANISM_INVALID", hsm.KindMisconfigured, msgNoOAEP},
	p11.CKR_MECHANISM_PARAM_INVALID:  {"CKR_MECHANISM_PARAM_INVALID", hsm.KindMisconfigured, msgNoOAEP},
	p11.CKR_ARGUMENTS_BAD:            {"CKR_ARGUMENTS_BAD", hsm.KindMisconfigured, msgNoOAEP},
	p11.CKR_TOKEN_NOT_PRESENT:        {"CKR_TOKEN_NOT_PRESENT", hsm.KindUnreachable, "The PKCS#11 token is not present"},
	p11.CKR_TOKEN_NOT_RECOGNIZED:     {"CKR_TOKEN_NOT_RECOGNIZED", hsm.KindUnreachable, "The PKCS#11 token is not recognised"},
	p11.CKR_DEVICE_REMOVED:           {"CKR_DEVICE_REMOVED", hsm.KindUnreachable, "The PKCS#11 token was removed"},
	p11.CKR_DEVICE_ERROR:             {"CKR_DEVICE_ERROR", hsm.KindUnreachable, msgUnanswered},
	p11.CKR_GENERAL_ERROR:            {"CKR_GENERAL_ERROR", hsm.KindUnreachable, msgUnanswered},
	p11.CKR_FUNCTION_FAILED:          {"CKR_FUNCTION_FAILED", hsm.KindUnreachable, msgUnanswered},
}

const (
	msgPINRefused    = "The PKCS#11 token refused the PIN; it is not tried again before the content of the PIN file changes"
	msgNotPermitted  = "The PKCS#11 key may not be used to decrypt or unwrap"
	msgKeyNotFound   = "The operation failed because the specified key was not found on the PKCS#11 token"
	msgNotRSA        = "The PKCS#11 key is not a valid RSA key"
	msgBadCiphertext = "The wrapped key is damaged or was wrapped by another key"
	msgNoOAEP        = "The PKCS#11 token does not support RSA-OAEP"
)

// classify turns what the module returned into an *hsm.Error.
func classify(op, keyID string, err error) *hsm.Error {
	e := &hsm.Error{Op: op, KeyID: keyID, Kind: hsm.KindUnreachable, Message: msgUnanswered, Err: err}
	var code p11.Error
	if !errors.As(err, &code) {
		return e
	}
	e.Reason = code.Error()
	if c, ok := classes[code]; ok {
		e.Kind, e.Reason, e.Message = c.kind, c.name, c.message
	}
	return e
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
