package meta_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// damagedVolume makes a volume with some files in it, closed, and returns its
// folder.
func damagedVolume(t *testing.T) (meta.Config, string) {
	t.Helper()
	dir := t.TempDir()
	st, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	cfg := meta.Config{Store: st, Key: crypto.NewKey(), VolumeID: [16]byte{7}}
	err = meta.Create(context.Background(), cfg, meta.Params{JournalBytes: 1 << 20, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])})
	if err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, cfg)
	for n := range 20 {
		name := "file" + string(rune('a'+n))
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, name, unix.S_IFREG|0o600, 0))
		must[int](t)(v.Write(meta.Caller{}, a.Ino, content(n, 40_000), 0))
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return cfg, dir
}

func editFile(t *testing.T, path string, fn func(b []byte) []byte) {
	t.Helper()
	b := must[[]byte](t)(os.ReadFile(path))
	if err := os.WriteFile(path, fn(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			files[path] = string(b)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestOpen_Damage_IsRefusedAndChangesNothing edits one file each time.
func TestOpen_Damage_IsRefusedAndChangesNothing(t *testing.T) {
	corrupt := func(err error) bool {
		var c *meta.CorruptError
		return errors.As(err, &c)
	}
	version := func(err error) bool {
		var v *meta.VersionError
		return errors.As(err, &v) && v.Have == 2 && strings.Contains(err.Error(), "2 is not supported")
	}
	tests := map[string]struct {
		damage func(t *testing.T, dir string)
		want   func(error) bool
	}{
		"no superblock": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "superblock")) },
			func(err error) bool { return errors.Is(err, meta.ErrNoVolume) }},
		"flipped bit in the superblock": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "superblock"), func(b []byte) []byte { b[60] ^= 1; return b })
		}, corrupt},
		"truncated superblock": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "superblock"), func(b []byte) []byte { return b[:100] })
		}, corrupt},
		"newer format": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "superblock"), func(b []byte) []byte { binary.LittleEndian.PutUint32(b[8:], 2); return b })
		}, version},
		"no index": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "index.db")) }, corrupt},
		"truncated index": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "index.db"), func(b []byte) []byte { return b[:3*4096] })
		}, corrupt},
		"empty index": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "index.db"), func(b []byte) []byte { return nil })
		}, corrupt},
		"index of zeros": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "index.db"), func(b []byte) []byte { clear(b); return b })
		}, corrupt},
		"journal header damaged": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "journal", "00"), func(b []byte) []byte { b[50] ^= 1; return b })
		}, corrupt},
		"journal file too short": {func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, "journal", "01"), func(b []byte) []byte { return b[:5000] })
		}, corrupt},
		"journal folder empty": {func(t *testing.T, dir string) {
			files := must[[]os.DirEntry](t)(os.ReadDir(filepath.Join(dir, "journal")))
			for _, f := range files {
				os.Remove(filepath.Join(dir, "journal", f.Name()))
			}
		}, corrupt},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cfg, dir := damagedVolume(t)
			test.damage(t, dir)
			before := snapshot(t, dir)
			v, err := meta.Open(context.Background(), cfg)
			if err == nil {
				v.Close(context.Background())
				t.Fatal("it opens")
			}
			if !test.want(err) {
				t.Errorf("refused with %v", err)
			}
			findings, err := meta.Check(context.Background(), cfg, meta.CheckOptions{})
			if err == nil && len(findings) == 0 {
				t.Error("the check finds nothing")
			}
			after := snapshot(t, dir)
			for path := range before {
				if before[path] != after[path] {
					t.Errorf("%s was changed", path)
				}
			}
		})
	}
}

func TestOpen_WrongKey_IsSaid(t *testing.T) {
	cfg, _ := damagedVolume(t)
	cfg.Key = crypto.NewKey()
	if _, err := meta.Open(context.Background(), cfg); !errors.Is(err, meta.ErrWrongKey) {
		t.Fatalf("opened with another key: %v", err)
	}
}

// TestOpen_TwoProcesses_SecondIsRefused stands for two workers of one volume:
// the lock is flock's, which also holds between two handles of one process.
func TestOpen_TwoProcesses_SecondIsRefused(t *testing.T) {
	cfg, dir := damagedVolume(t)
	v := openVolume(t, cfg)
	defer v.Close(context.Background())
	st := must[*store.Dir](t)(store.OpenDir(dir))
	defer st.Close()
	cfg.Store = st
	if _, err := meta.Open(context.Background(), cfg); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
}

// TestRead_DamagedSegment_FailsOnlyThatBlock flips a bit in every page of every
// segment in turn, and expects either an error from the read or right data.
func TestRead_DamagedSegment_FailsOnlyThatBlock(t *testing.T) {
	cfg, dir := damagedVolume(t)
	paths := must[[]string](t)(filepath.Glob(filepath.Join(dir, "segments", "*")))
	if len(paths) == 0 {
		t.Fatal("no segments")
	}
	for _, path := range paths {
		original := must[[]byte](t)(os.ReadFile(path))
		for page := 1; page*4096 < len(original); page += 3 {
			editFile(t, path, func(b []byte) []byte { b[page*4096+17] ^= 4; return b })
			v := openVolume(t, cfg)
			failed := 0
			for n := range 20 {
				a := must[meta.Attr](t)(v.Lookup(meta.RootIno, "file"+string(rune('a'+n))))
				got := make([]byte, a.Size)
				_, err := v.Read(a.Ino, got, 0)
				var c *meta.CorruptError
				switch {
				case errors.As(err, &c):
					failed++
				case err != nil:
					t.Fatal(err)
				case !bytes.Equal(got, content(n, 40_000)):
					t.Fatalf("page %d: file %d was read wrong without an error", page, n)
				}
			}
			if failed > 1 {
				t.Errorf("page %d: %d files fail", page, failed)
			}
			if err := v.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			findings := must[[]meta.Finding](t)(meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true}))
			if got := slices.ContainsFunc(findings, func(f meta.Finding) bool { return f.Code == meta.FindBlock }); got != (failed > 0) {
				t.Errorf("page %d: %d files fail, scrub says %v", page, failed, findings)
			}
			if err := os.WriteFile(path, original, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestStore_HoldsNoPlaintext looks for contents and names in every file.
func TestStore_HoldsNoPlaintext(t *testing.T) {
	dir := t.TempDir()
	st := must[*store.Dir](t)(store.OpenDir(dir))
	defer st.Close()
	cfg := meta.Config{Store: st, Key: crypto.NewKey()}
	err := meta.Create(context.Background(), cfg, meta.Params{JournalBytes: 1 << 20, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])})
	if err != nil {
		t.Fatal(err)
	}
	const canary = "canary-7f3a9c21"
	v := openVolume(t, cfg)
	d := must[meta.Attr](t)(v.Mkdir(meta.Caller{}, meta.RootIno, canary, 0o755))
	for _, size := range []int{100, 5000, 300_000} {
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, d.Ino, canary+string(rune('a'+size%26)), unix.S_IFREG|0o600, 0))
		must[int](t)(v.Write(meta.Caller{}, a.Ino, bytes.Repeat([]byte(canary), size/len(canary)), 0))
		if err := v.SetXattr(meta.Caller{}, a.Ino, "user."+canary, []byte(canary), 0); err != nil {
			t.Fatal(err)
		}
	}
	must[meta.Attr](t)(v.Symlink(meta.Caller{}, d.Ino, "link", canary))
	look := func(when string) {
		for path, b := range snapshot(t, dir) {
			if strings.Contains(b, canary) || strings.Contains(path, canary) {
				t.Errorf("%s: plaintext in %s", when, path)
			}
		}
	}
	if err := v.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	look("in the journal")
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	look("after a checkpoint")
	checkClean(t, cfg)
}
