package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmkfs/meta"
	"cmkfs/store"
)

// TestFormat_BrokenVolumes breaks a volume as the files
// in testdata/volumes/broken say, and expects the verdict each has: the codes of
// the check's findings, whether the repair needs --excise, how many things it
// says are lost, and how many files are as they were.
func TestFormat_BrokenVolumes(t *testing.T) {
	paths := must[[]string](t)(filepath.Glob("testdata/volumes/broken/*.txt"))
	if len(paths) == 0 {
		t.Fatal("no broken volumes found")
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			dir := t.TempDir()
			var want, got []string
			for line := range strings.Lines(string(must[[]byte](t)(os.ReadFile(path)))) {
				line = strings.TrimSpace(line)
				words := strings.Fields(line)
				switch {
				case len(words) == 0 || words[0] == "#":
				case words[0] == "verdict":
					want = append(want, line)
				default:
					breakVolume(t, dir, words)
				}
			}
			st := must[*store.Dir](t)(store.OpenDir(dir))
			defer st.Close()
			cfg := meta.Config{Store: st, Key: formatKey, VolumeID: formatID}
			var codes []meta.Code
			for _, f := range must[[]meta.Finding](t)(meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true})) {
				codes = append(codes, f.Code)
			}
			slices.Sort(codes)
			got = append(got, fmt.Sprint("verdict check ", slices.Compact(codes)))
			_, err := meta.Repair(context.Background(), cfg, meta.RepairOptions{})
			got = append(got, fmt.Sprint("verdict repair needs --excise: ", errors.Is(err, meta.ErrNeedsExcise)))
			lost, err := repairAll(cfg)
			if err != nil {
				got = append(got, "verdict no repair")
			} else {
				got = append(got, fmt.Sprint("verdict lost ", lost), fmt.Sprintf("verdict files right %d of %d", rightFiles(t, cfg), 2*len(formatFiles)))
				checkClean(t, cfg)
			}
			if !slices.Equal(got, want) {
				t.Errorf("the verdict is\n%s\nand should be\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// rightFiles counts the files of makeFormatVolume that are as they were.
func rightFiles(t *testing.T, cfg meta.Config) (right int) {
	v := openVolume(t, cfg)
	for name, size := range formatFiles {
		for path, want := range map[string][]byte{name: formatContent(name), name + ".late": content(size, size)} {
			parent := uint64(meta.RootIno)
			if d, err := v.Lookup(parent, "dir"); err == nil && filepath.Dir(path) == "dir" {
				parent = d.Ino
			}
			a, err := v.Lookup(parent, filepath.Base(path))
			if err == nil && bytes.Equal(readAll(t, v, a.Ino), want) {
				right++
			}
		}
	}
	if err := v.Abandon(); err != nil {
		t.Error(err)
	}
	return right
}

// breakVolume does one thing to a volume.
func breakVolume(t *testing.T, dir string, words []string) {
	t.Helper()
	number := func(s string) (n int64) {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(words, err)
		}
		return n
	}
	file := filepath.Join(dir, words[1])
	edit := func(off, length int64, fn func(b []byte)) {
		f := must[*os.File](t)(os.OpenFile(file, os.O_RDWR, 0))
		defer f.Close()
		b := make([]byte, length)
		must[int](t)(f.ReadAt(b, off))
		fn(b)
		must[int](t)(f.WriteAt(b, off))
	}
	var err error
	switch words[0] {
	case "volume": // NAME
		var out []byte
		if out, err = exec.Command("tar", "-xzSf", "testdata/volumes/"+words[1], "-C", dir, "--no-same-owner").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	case "flip": // FILE BYTE BIT
		edit(number(words[2]), 1, func(b []byte) { b[0] ^= 1 << number(words[3]) })
	case "zero": // FILE BYTE LENGTH
		edit(number(words[2]), number(words[3]), func(b []byte) { clear(b) })
	case "cut": // FILE LENGTH
		err = os.Truncate(file, number(words[2]))
	case "remove": // FILE
		err = os.Remove(file)
	case "copy": // TO FROM
		var b []byte
		if b, err = os.ReadFile(filepath.Join(dir, words[2])); err == nil {
			err = os.WriteFile(file, b, 0o600)
		}
	default:
		t.Fatalf("unknown: %v", words)
	}
	if err != nil {
		t.Fatal(words, err)
	}
}
