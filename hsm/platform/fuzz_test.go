package platform_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"cmkfs/hsm"
	"cmkfs/hsm/platform"
)

// A key file is whole or refused: one byte of it makes the difference.
func FuzzKeyFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "platform.key")
	load := func(t *testing.T, b []byte) error {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := platform.Open(context.Background(), hsm.PlatformConfig{KeyFile: path})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		_, err = k.Info(context.Background())
		return err
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := load(t, b); err != nil {
			if kind := hsm.KindOf(err); kind != hsm.KindMisconfigured {
				t.Fatalf("refused as %s: %v", kind, err)
			}
			return
		}
		if len(b) != 76 {
			t.Fatalf("a file of %d bytes was taken", len(b))
		}
		b[len(b)/2] ^= 1
		if load(t, b) == nil {
			t.Error("a changed file was taken")
		}
	})
}
