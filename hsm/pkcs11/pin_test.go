package pkcs11_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkfs/hsm"
	"cmkfs/hsm/hsmtest"
)

func TestPIN_WrongIsTriedOnce(t *testing.T) {
	for name, state := range map[string]string{"directory": t.TempDir(), "none": "", "unusable": "/proc/nowhere"} {
		t.Run(name, func(t *testing.T) {
			token := hsmtest.NewToken(t)
			const wrong = "000000"
			token.SetPIN(t, wrong)
			k, err := opener(token.URI("good"), state)(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			refused := func() {
				t.Helper()
				_, err := k.Wrap(t.Context(), make([]byte, 32))
				want(t, err, hsm.KindDenied, "CKR_PIN_INCORRECT")
				if err != nil && strings.Contains(err.Error(), wrong) {
					t.Errorf("the error contains the PIN: %v", err)
				}
			}
			refused()
			// Were it sent to the token again, it would now be right.
			token.ChangePIN(t, wrong)
			for range 3 {
				refused()
			}
			token.SetPIN(t, wrong+"\n")
			if _, err := k.Wrap(t.Context(), make([]byte, 32)); err != nil {
				t.Errorf("after the content of the PIN file changed: %v", err)
			}
		})
	}
}

func TestPIN_MarkerIsPrivate(t *testing.T) {
	token, state := hsmtest.NewToken(t), t.TempDir()
	token.SetPIN(t, "4242424242")
	k, err := opener(token.URI("good"), state)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Info(t.Context())
	want(t, err, hsm.KindDenied, "CKR_PIN_INCORRECT")
	files, _ := filepath.Glob(state + "/refused-pins/*")
	if len(files) != 1 {
		t.Fatalf("markers: %v, want one", files)
	}
	st, err := os.Stat(files[0])
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("marker has mode %v", st.Mode())
	}
	b, _ := os.ReadFile(files[0])
	if bytes.Contains(b, []byte("4242")) {
		t.Error("the marker contains the PIN")
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	token.SetPIN(t, hsmtest.PIN)
	_, err = k.Info(t.Context())
	want(t, err, hsm.KindUnreachable, "PINGuard")
}
