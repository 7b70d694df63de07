package meta_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// formatKey and formatFiles are those of the volumes below testdata/volumes.
var (
	formatKey   = crypto.Key{0x5a, 1, 2, 3}
	formatID    = [16]byte{'f', 'r', 'o', 'z', 'e', 'n'}
	formatFiles = map[string]int{"empty": 0, "byte": 1, "page": 4096, "5000": 5000, "dir/40000": 40_000, "dir/150000": 150_000}
)

// makeFormatVolume makes a volume whose files are partly in segments, partly
// in the index, partly in the journal only.
func makeFormatVolume(t *testing.T, dir string) {
	t.Helper()
	st, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	cfg := meta.Config{Store: st, Key: formatKey, VolumeID: formatID}
	err = meta.Create(context.Background(), cfg, meta.Params{JournalBytes: 256 << 10, AEKID: "aek", Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])})
	if err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, cfg)
	d := must[meta.Attr](t)(v.Mkdir(meta.Caller{}, meta.RootIno, "dir", 0o755))
	for _, suffix := range []string{"", ".late"} {
		for name, size := range formatFiles {
			parent := uint64(meta.RootIno)
			if filepath.Dir(name) == "dir" {
				parent = d.Ino
			}
			a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, parent, filepath.Base(name)+suffix, unix.S_IFREG|0o640, 0))
			must[int](t)(v.Write(meta.Caller{}, a.Ino, content(size, size), 0))
			if size > 5000 && suffix == "" { // a hole, and a change in the middle
				must[int](t)(v.Write(meta.Caller{}, a.Ino, []byte("changed"), 5000))
				if err := v.Fallocate(meta.Caller{}, a.Ino, meta.FallocPunchHole|meta.FallocKeepSize, 8192, 12288); err != nil {
					t.Fatal(err)
				}
			}
		}
		if suffix == "" {
			if err := v.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			v = openVolume(t, cfg)
		}
	}
	if err := v.Abandon(); err != nil {
		t.Fatal(err)
	}
}

// formatContent is what is in a file of makeFormatVolume.
func formatContent(name string) []byte {
	b := slices.Clone(content(formatFiles[name], formatFiles[name]))
	if len(b) > 5000 {
		copy(b[5000:], "changed")
		clear(b[8192:20480])
	}
	return b
}

// readFormatVolume reads every file of makeFormatVolume with the second reader.
func readFormatVolume(t *testing.T, dir string) {
	t.Helper()
	r, err := readVolume(dir, formatKey[:])
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range formatFiles {
		for path, want := range map[string][]byte{name: formatContent(name), name + ".late": content(size, size)} {
			if got, err := r.readFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, want %d: %v", path, len(got), len(want), err)
			}
		}
	}
}

// TestFormat_DocumentIsEnough reads a new volume with the reader written from
// docs/format.md alone.
func TestFormat_DocumentIsEnough(t *testing.T) {
	dir := t.TempDir()
	makeFormatVolume(t, dir)
	readFormatVolume(t, dir)
}

// TestFormat_ReleasedVolumes opens, checks and writes the volumes that earlier
// versions of this program left in testdata/volumes.
func TestFormat_ReleasedVolumes(t *testing.T) {
	if dir := os.Getenv("CMKFS_FREEZE_VOLUME"); dir != "" {
		makeFormatVolume(t, dir)
	}
	archives, err := filepath.Glob("testdata/volumes/*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no volumes found: %v", err)
	}
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			dir := t.TempDir()
			if out, err := exec.Command("tar", "-xzSf", archive, "-C", dir, "--no-same-owner").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			readFormatVolume(t, dir)
			st, err := store.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			cfg := meta.Config{Store: st, Key: formatKey, VolumeID: formatID}
			clean := func() {
				t.Helper()
				if found, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true}); err != nil || len(found) > 0 {
					t.Fatalf("check: %v, %v", found, err)
				}
			}
			clean()
			v := openVolume(t, cfg)
			d := must[meta.Attr](t)(v.Lookup(meta.RootIno, "dir"))
			a := must[meta.Attr](t)(v.Lookup(d.Ino, "150000"))
			if !bytes.Equal(readAll(t, v, a.Ino), formatContent("dir/150000")) {
				t.Error("dir/150000 has another content")
			}
			must[int](t)(v.Write(meta.Caller{}, a.Ino, content(9, 100_000), 1234))
			must[meta.Attr](t)(v.Mknod(meta.Caller{}, d.Ino, "new", unix.S_IFREG|0o600, 0))
			if err := v.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			clean()
		})
	}
}
