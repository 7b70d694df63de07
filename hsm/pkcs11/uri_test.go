package pkcs11_test

import (
	"strings"
	"testing"

	"cmkfs/hsm"
	"cmkfs/hsm/pkcs11"
)

func TestParseURI(t *testing.T) {
	u, err := pkcs11.ParseURI("pkcs11:token=My%20Token;object=K%3b1;id=%01%ff;serial=0a;slot-id=7;type=private?module-path=/l/m.so&pin-source=file:///etc/pin")
	if err != nil {
		t.Fatal(err)
	}
	if u.Token != "My Token" || u.Object != "K;1" || string(u.ID) != "\x01\xff" || u.Serial != "0a" || *u.SlotID != 7 || u.ModulePath != "/l/m.so" || u.PINFile != "/etc/pin" {
		t.Errorf("ParseURI = %+v", u)
	}
	if id := u.KeyID(); id != "pkcs11:token=My%20Token;serial=0a;slot-id=7;object=K%3B1;id=%01%FF" {
		t.Errorf("KeyID = %s", id)
	}
	again, err := pkcs11.ParseURI(u.KeyID() + "?module-path=/l/m.so")
	if err != nil || again.KeyID() != u.KeyID() {
		t.Errorf("KeyID does not parse to itself: %v %v", again.KeyID(), err)
	}
}

func TestParseURI_Refused(t *testing.T) {
	for uri, says := range map[string]string{
		"":                               "begins with",
		"https://v.vault.azure.net/keys": "begins with",
		"pkcs11:token=T;object=K":        "module-path",
		"pkcs11:object=K?module-path=/m": "token, serial or slot-id",
		"pkcs11:token=T;object=K?module-path=m.so":                         "absolute",
		"pkcs11:token=T;object=K?module-path=/m&pin-value=1234":            "pin-source=file:",
		"pkcs11:token=T;object=K?module-path=/m&pin-source=pin":            "file:/absolute/path",
		"pkcs11:token=T;object=K?module-path=/m&pin-source=|/bin/askpass":  "file:/absolute/path",
		"pkcs11:token=T;object=K?module-path=/m&pin-source=file:pin":       "file:/absolute/path",
		"pkcs11:token=T;object=K?module-path=/m&module-name=x":             "not supported: module-name",
		"pkcs11:token=T;token=U;object=K?module-path=/m":                   "more than once",
		"pkcs11:token=T;object=%zz?module-path=/m":                         "percent",
		"pkcs11:token=T;object=?module-path=/m":                            "empty",
		"pkcs11:token=T;object?module-path=/m":                             "without a name and a value",
		"pkcs11:token=T;object=K;slot-id=x?module-path=/m":                 "not a number",
		"pkcs11:token=T;object=K;type=public?module-path=/m":               "private key",
		"pkcs11:token=T;object=K;library-manufacturer=X?module-path=/m":    "not supported",
		"pkcs11:token=T;object=K;object=L?module-path=/m&pin-source=/x/p":  "more than once",
		"pkcs11:token=T;;object=K?module-path=/m":                          "without a name and a value",
		"pkcs11:token=T;object=K?module-path=/m&pin-source=/x&pin-source=": "more than once",
	} {
		_, err := pkcs11.ParseURI(uri)
		if err == nil || hsm.KindOf(err) != hsm.KindMisconfigured || !strings.Contains(err.Error(), says) {
			t.Errorf("ParseURI(%q) = %v, want an error that says %q", uri, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("ParseURI(%q): the error contains the PIN", uri)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("pkcs11:token=T;object=K;id=%01?module-path=/m&pin-source=file:/p")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := pkcs11.ParseURI(s)
		if err != nil {
			return
		}
		again, err := pkcs11.ParseURI(u.KeyID() + "?module-path=/m")
		if err != nil || again.KeyID() != u.KeyID() {
			t.Errorf("%q: key id %q does not parse to itself: %v", s, u.KeyID(), err)
		}
	})
}

// A damaged file of refused PINs is an error, so that no PIN is tried, or a
// list; never more than there can be.
func FuzzRefusedPINs(f *testing.F) {
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := pkcs11.RefusedPINs(dir, b); err == nil && n > len(b) {
			t.Errorf("%d PINs in %d bytes", n, len(b))
		}
	})
}
