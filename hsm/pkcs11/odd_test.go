package pkcs11_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkfs/hsm"
	"cmkfs/hsm/hsmtest"
)

// oddModule builds testdata/odd.c: SoftHSM with other manners. What builds the
// package itself, which loads libraries through C, is all it needs.
func oddModule(t *testing.T) string {
	t.Helper()
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatal(err)
	}
	cc, err := exec.Command("go", "env", "CC").Output()
	if err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(t.TempDir(), "odd.so")
	build := exec.Command(strings.TrimSpace(string(cc)), "-shared", "-fPIC", "-Wall", "-I", strings.TrimSpace(string(headers)), "-o", lib, "testdata/odd.c")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("ODD_MODULE", hsmtest.SoftHSMModule)
	return lib
}

// TestConformance_OtherManners runs the suite with modules that differ from
// SoftHSM in what the standard leaves open.
func TestConformance_OtherManners(t *testing.T) {
	master := hsmtest.NewToken(t)
	master.AddKey(t, "signonly", "03", "rsa:2048", "--usage-sign")
	master.AddKey(t, "short", "04", "rsa:1024", "--usage-decrypt")
	master.AddKey(t, "curve", "05", "EC:prime256v1", "--usage-sign")
	master.AddKey(t, "twice", "06", "rsa:2048", "--usage-decrypt")
	master.AddKey(t, "twice", "07", "rsa:2048", "--usage-decrypt")
	permit(t, "signonly", false, false)
	odd := oddModule(t)
	for _, manners := range []string{"none", "slots", "single", "sparse", "sha1", "already", "zeros", "vendor", "slots single sparse sha1 already zeros"} {
		t.Run(manners, func(t *testing.T) {
			t.Setenv("ODD_MANNERS", manners)
			hsmtest.Run(t, func(t *testing.T) hsmtest.Harness {
				token := master.Copy(t)
				token.Module = odd
				return harness(t, token, "good")
			})
		})
	}
}

// A smart card may want the PIN before each use of a key. (SoftHSM cannot do
// that while it is kept from writing, which other makes are not.)
func TestKey_AlwaysAuthenticate(t *testing.T) {
	token := hsmtest.NewToken(t)
	token.Module = oddModule(t)
	t.Setenv("ODD_MANNERS", "vendor")
	token.AddKey(t, "card", "09", "rsa:2048", "--usage-decrypt", "--always-auth")
	state := t.TempDir()
	k, err := opener(token.URI("card"), state)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w, err := k.Wrap(t.Context(), []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Unwrap(t.Context(), w); err != nil || string(got) != "secret" {
			t.Fatalf("Unwrap = %q, %v", got, err)
		}
	}
	token.SetPIN(t, "000000")
	_, err = k.Wrap(t.Context(), []byte("secret"))
	want(t, err, hsm.KindDenied, "CKR_PIN_INCORRECT")
}

// Two tokens of one label are told apart by their serial numbers only, and are
// not chosen between.
func TestToken_TwoOfOneLabel(t *testing.T) {
	token := hsmtest.NewToken(t)
	second := token.AddToken(t, "drill")
	k, err := opener(token.URI("good"), "")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Info(t.Context())
	want(t, err, hsm.KindMisconfigured, "AmbiguousToken")
	if !errors.Is(err, hsm.BadTokenURI) {
		t.Error(err)
	}
	for object, ours := range map[string]bool{"other": true, "good": false} {
		k, err := opener(strings.Replace(token.URI(object), "token=drill;", "token=drill;serial="+second+";", 1), "")(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		info, err := k.Info(t.Context())
		if !ours {
			want(t, err, hsm.KindDenied, "KeyNotFound")
		} else if err != nil || !strings.Contains(info.KeyID, "serial="+second) {
			t.Errorf("%s: %+v, %v", object, info, err)
		}
	}
}
