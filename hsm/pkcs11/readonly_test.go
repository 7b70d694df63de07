package pkcs11_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"cmkfs/hsm/hsmtest"
)

// A login that writes the token's files can be interrupted while they are
// empty, so nothing we do may write them.
func TestSoftHSM_FilesAreNotWritten(t *testing.T) {
	token := hsmtest.NewToken(t)
	files, err := filepath.Glob(token.Dir + "/tokens/*/*.object")
	if err != nil || len(files) != 3 {
		t.Fatalf("token files: %v, %v; want the token's and two of a key", files, err)
	}
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, f := range files {
		if err := os.Chtimes(f, past, past); err != nil {
			t.Fatal(err)
		}
	}
	k, err := opener(token.URI("good"), t.TempDir())(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := k.Wrap(t.Context(), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unwrap(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	token.SetPIN(t, "000000")
	if _, err := k.Unwrap(t.Context(), w); err == nil {
		t.Fatal("a wrong PIN was accepted")
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if !st.ModTime().Equal(past) {
			t.Errorf("%s was written", filepath.Base(f))
		}
	}
}
