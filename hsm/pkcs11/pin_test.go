package pkcs11_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkfs/hsm"
	"cmkfs/hsm/hsmtest"
)

// countLow asks the token itself whether a wrong PIN has been seen since the
// last successful login.
func countLow(t *testing.T) bool {
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
	info, err := ctx.GetTokenInfo(slots[0])
	if err != nil {
		t.Fatal(err)
	}
	return info.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0
}

// reset logs in with the right PIN, which resets the token's count.
func reset(t *testing.T) {
	t.Helper()
	onToken(t, func(*p11.Ctx, p11.SessionHandle) error { return nil })
	if countLow(t) {
		t.Fatal("the token does not reset its count of wrong PINs")
	}
}

func TestPIN_WrongIsTriedOnce(t *testing.T) {
	token := hsmtest.NewToken(t)
	for _, state := range []string{t.TempDir(), "", filepath.Join(token.PINFile, "not-a-directory")} {
		token.SetPIN(t, "000000"+filepath.Base(state))
		wrong := func() {
			t.Helper()
			k, err := opener(token.URI("good"), state)(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = k.Wrap(t.Context(), make([]byte, 32))
			want(t, err, hsm.KindDenied, "CKR_PIN_INCORRECT")
			if err != nil && strings.Contains(err.Error(), "000000") {
				t.Errorf("the error contains the PIN: %v", err)
			}
		}
		wrong()
		if !countLow(t) {
			t.Fatalf("state %q: the token saw no wrong PIN", state)
		}
		reset(t)
		for range 3 {
			wrong()
		}
		if countLow(t) {
			t.Errorf("state %q: a refused PIN was sent to the token again", state)
		}
		token.SetPIN(t, hsmtest.PIN)
		k, err := opener(token.URI("good"), state)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Wrap(t.Context(), make([]byte, 32)); err != nil {
			t.Errorf("state %q: the right PIN does not work after a wrong one: %v", state, err)
		}
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
