package platform_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"cmkfs/hsm"
	"cmkfs/hsm/hsmtest"
	"cmkfs/hsm/platform"
)

func create(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "platform.key")
	if err := platform.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func opener(path string) func(context.Context) (hsm.Key, error) {
	return func(ctx context.Context) (hsm.Key, error) {
		return platform.Open(ctx, hsm.PlatformConfig{KeyFile: path})
	}
}

func TestConformance(t *testing.T) {
	hsmtest.Run(t, func(t *testing.T) hsmtest.Harness {
		path := create(t)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		restore := func(t *testing.T) {
			os.Remove(path)
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write := func(change func(b []byte) []byte) func(*testing.T) {
			return func(t *testing.T) {
				if err := os.WriteFile(path, change(append([]byte{}, good...)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		flip := func(i int) func([]byte) []byte {
			return func(b []byte) []byte { b[i] ^= 1; return b }
		}
		outage := func(name string, take func(*testing.T), kind hsm.Kind, reason string) hsmtest.Outage {
			return hsmtest.Outage{Name: name, Take: take, Give: restore, Kind: kind, Reason: reason}
		}
		return hsmtest.Harness{
			Open: opener(path),
			Want: hsm.Info{Type: hsm.TypePlatform, Bits: 256},
			Outages: []hsmtest.Outage{
				outage("removed", func(*testing.T) { os.Remove(path) }, hsm.KindDenied, "KeyFileMissing"),
				outage("world-readable", func(*testing.T) { os.Chmod(path, 0o644) }, hsm.KindMisconfigured, "KeyFilePermissions"),
				outage("empty", write(func([]byte) []byte { return nil }), hsm.KindMisconfigured, "KeyFileDamaged"),
				outage("truncated", write(func(b []byte) []byte { return b[:len(b)-1] }), hsm.KindMisconfigured, "KeyFileDamaged"),
				outage("longer", write(func(b []byte) []byte { return append(b, 0) }), hsm.KindMisconfigured, "KeyFileDamaged"),
				outage("magic", write(flip(0)), hsm.KindMisconfigured, "KeyFileDamaged"),
				outage("version", write(flip(8)), hsm.KindMisconfigured, "KeyFileVersion"),
				outage("key bit", write(flip(20)), hsm.KindMisconfigured, "KeyFileDamaged"),
				outage("checksum bit", write(flip(70)), hsm.KindMisconfigured, "KeyFileDamaged"),
				outage("directory", func(*testing.T) { os.Remove(path); os.Mkdir(path, 0o700) }, hsm.KindMisconfigured, "KeyFileDamaged"),
				outage("replaced", func(t *testing.T) {
					os.Remove(path)
					if err := platform.Create(path); err != nil {
						t.Fatal(err)
					}
				}, hsm.KindMisconfigured, "KeyReplaced"),
			},
			Refused: []hsmtest.Refused{
				{Name: "missing", Open: opener(path + ".other"), Kind: hsm.KindDenied, Reason: "KeyFileMissing"},
				{Name: "not configured", Open: opener(""), Kind: hsm.KindMisconfigured, Reason: "NoKeyFile"},
			},
		}
	})
}

func TestCreate_NeverOverwrites(t *testing.T) {
	path := create(t)
	before, _ := os.ReadFile(path)
	if err := platform.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v, want fs.ErrExist", err)
	}
	after, _ := os.ReadFile(path)
	if string(before) != string(after) {
		t.Error("the key file was changed")
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() != 76 {
		t.Errorf("key file: %v %v, want mode 0600 and 76 bytes", st.Mode(), st.Size())
	}
	if names, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(names) != 1 {
		t.Errorf("left over: %v", names)
	}
}
