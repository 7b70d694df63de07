package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkfs/hsm"
	"cmkfs/hsm/hsmtest"
	"cmkfs/hsm/pkcs11"
)

func opener(uri, stateDir string) func(context.Context) (hsm.Key, error) {
	return func(ctx context.Context) (hsm.Key, error) {
		return pkcs11.Open(ctx, hsm.PKCS11Config{URI: uri}, pkcs11.Options{StateDir: stateDir})
	}
}

func TestConformance(t *testing.T) {
	master := hsmtest.NewToken(t)
	master.AddKey(t, "wraponly", "02", "rsa:2048", "--usage-wrap")
	master.AddKey(t, "signonly", "03", "rsa:2048", "--usage-sign")
	master.AddKey(t, "short", "04", "rsa:1024", "--usage-decrypt")
	master.AddKey(t, "curve", "05", "EC:prime256v1", "--usage-sign")
	master.AddKey(t, "twice", "06", "rsa:2048", "--usage-decrypt")
	master.AddKey(t, "twice", "07", "rsa:2048", "--usage-decrypt")

	permit(t, "wraponly", false, true)
	permit(t, "signonly", false, false)
	for _, object := range []string{"good", "wraponly"} {
		t.Run(object, func(t *testing.T) {
			hsmtest.Run(t, func(t *testing.T) hsmtest.Harness { return harness(t, master.Copy(t), object) })
		})
	}
}

func harness(t *testing.T, token *hsmtest.Token, object string) hsmtest.Harness {
	state := t.TempDir()
	deny := func(name, uri string, kind hsm.Kind, reason string) hsmtest.Refused {
		return hsmtest.Refused{Name: name, Open: opener(uri, state), Kind: kind, Reason: reason}
	}
	good := token.URI(object)
	private := filepath.Join(token.Dir, "key.away")
	return hsmtest.Harness{
		Open:    opener(good, state),
		Want:    hsm.Info{Type: hsm.TypeRSAHSM, Bits: 2048},
		Secrets: []string{hsmtest.PIN},
		Outages: []hsmtest.Outage{
			{Name: "token removed", Take: token.Remove, Give: token.Return, Kind: hsm.KindUnreachable, Reason: "TokenAbsent"},
			{Name: "PIN file missing",
				Take: func(t *testing.T) { os.Rename(token.PINFile, private) }, Give: func(t *testing.T) { os.Rename(private, token.PINFile) },
				Kind: hsm.KindMisconfigured, Reason: "PINSource"},
			{Name: "wrong PIN", Take: func(t *testing.T) { token.SetPIN(t, "000000") }, Give: func(t *testing.T) { token.SetPIN(t, hsmtest.PIN) },
				Kind: hsm.KindDenied, Reason: "CKR_PIN_INCORRECT"},
			{Name: "decrypting forbidden", Take: func(t *testing.T) { permit(t, object, false, false) }, Give: func(t *testing.T) { permit(t, object, object == "good", true) },
				Kind: hsm.KindDenied, Reason: "KeyOperationForbidden"},
		},
		Refused: []hsmtest.Refused{
			deny("unknown token", "pkcs11:token=other;object=good?module-path="+hsmtest.SoftHSMModule, hsm.KindUnreachable, "TokenAbsent"),
			deny("unknown serial", "pkcs11:token=drill;serial=00;object=good?module-path="+hsmtest.SoftHSMModule, hsm.KindUnreachable, "TokenAbsent"),
			deny("unknown label", token.URI("nosuch"), hsm.KindDenied, "KeyNotFound"),
			deny("key without decrypt", token.URI("signonly"), hsm.KindDenied, "KeyOperationForbidden"),
			deny("short", token.URI("short"), hsm.KindMisconfigured, "KeyTooShort"),
			deny("not RSA", token.URI("curve"), hsm.KindMisconfigured, "NotRSA"),
			deny("two keys of one label", token.URI("twice"), hsm.KindMisconfigured, "AmbiguousKey"),
			deny("no PIN source", "pkcs11:token=drill;object=good?module-path="+hsmtest.SoftHSMModule, hsm.KindMisconfigured, "PINSource"),
			deny("no library", "pkcs11:token=drill;object=good?module-path=/nonexistent.so", hsm.KindMisconfigured, "ModuleNotLoadable"),
			deny("library that is none", "pkcs11:token=drill;object=good?module-path="+token.PINFile, hsm.KindMisconfigured, "ModuleNotLoadable"),
			deny("no key named", "pkcs11:token=drill?module-path="+hsmtest.SoftHSMModule, hsm.KindMisconfigured, "BadURI"),
		},
	}
}

// permit sets what a private key may do: SoftHSM allows everything to keys for
// which nothing was said, and its tools cannot say no.
func permit(t *testing.T, label string, decrypt, unwrap bool) {
	t.Helper()
	onToken(t, func(ctx *p11.Ctx, s p11.SessionHandle) error {
		err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_LABEL, label)})
		if err != nil {
			return err
		}
		found, _, err := ctx.FindObjects(s, 1)
		if err != nil || len(found) != 1 {
			return fmt.Errorf("private key %s: %d found: %w", label, len(found), err)
		}
		if err := ctx.FindObjectsFinal(s); err != nil {
			return err
		}
		return ctx.SetAttributeValue(s, found[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_DECRYPT, decrypt), p11.NewAttribute(p11.CKA_UNWRAP, unwrap)})
	})
}

// onToken calls f with a session that is logged in to the first token.
func onToken(t *testing.T, f func(*p11.Ctx, p11.SessionHandle) error) {
	t.Helper()
	ctx := p11.New(hsmtest.SoftHSMModule)
	defer ctx.Destroy()
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer ctx.Finalize()
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctx.Login(s, p11.CKU_USER, hsmtest.PIN); err != nil {
		t.Fatal(err)
	}
	if err := f(ctx, s); err != nil {
		t.Fatal(err)
	}
}

func TestKey_Deleted(t *testing.T) {
	token := hsmtest.NewToken(t)
	k, err := opener(token.URI("good"), "")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := k.Wrap(t.Context(), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if w.Algorithm != "RSA-OAEP" {
		t.Errorf("algorithm %s; SoftHSM 2.6.1 knows OAEP with SHA-1 only", w.Algorithm)
	}
	token.RemoveKey(t, "01")
	_, err = k.Unwrap(t.Context(), w)
	want(t, err, hsm.KindDenied, "KeyNotFound")

	token.AddKey(t, "good", "01", "rsa:2048", "--usage-decrypt")
	_, err = k.Unwrap(t.Context(), w)
	want(t, err, hsm.KindMisconfigured, "BadCiphertext")
}

func want(t *testing.T, err error, kind hsm.Kind, reason string) {
	t.Helper()
	var e *hsm.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Reason != reason {
		t.Errorf("got %v, want %s/%s", err, kind, reason)
	}
}

func TestList(t *testing.T) {
	token := hsmtest.NewToken(t)
	token.AddKey(t, "curve", "05", "EC:prime256v1", "--usage-sign")
	keys, err := pkcs11.List(t.Context(), hsm.PKCS11Config{URI: token.URI("ignored")}, pkcs11.Options{})
	if err != nil || len(keys) != 2 {
		t.Fatalf("List = %v, %v; want two keys", keys, err)
	}
	bits := map[string]int{}
	for _, k := range keys {
		bits[k.KeyID] = k.Bits
	}
	if bits["pkcs11:token=drill;object=good;id=%01"] != 2048 {
		t.Errorf("List = %v", keys)
	}
}
