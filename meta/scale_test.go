package meta_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/internal/race"
	"cmkfs/meta"
	"cmkfs/store"
)

// scaleTableEnv is a file for the figures of TestScale. With scaleStepsEnv set it
// goes up to the last of these numbers of files, which takes as long as it takes.
const scaleTableEnv = "CMKFS_SCALE_TABLE"

// TestScale: the memory of an open volume does not grow with its files. The cost
// of operations is printed and not judged: docs/limits.md has it.
func TestScale(t *testing.T) {
	steps, limit := os.Getenv(scaleStepsEnv), time.Hour
	if steps == "" {
		steps, limit = "5000,50000", 3*time.Minute
	}
	for _, one := range []string{"", "one"} {
		t.Run("directories"+one, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cmd := exec.CommandContext(ctx, "/proc/self/exe")
			cmd.Env = append(os.Environ(), scaleDirEnv+"="+t.TempDir(), scaleStepsEnv+"="+steps, scaleOneEnv+"="+one)
			cmd.WaitDelay = 10 * time.Second
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s\n%s", scaleHeader, out)
			if path := os.Getenv(scaleTableEnv); path != "" {
				if err := os.WriteFile(path+one, append([]byte(scaleHeader+"\n"), out...), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			lines := strings.Fields(string(out))
			last := strings.Split(lines[len(lines)-1], ",")
			peak, err := strconv.Atoi(last[len(last)-1])
			if err != nil || len(last) != strings.Count(scaleHeader, ",")+1 {
				t.Fatalf("%q: %v", last, err)
			}
			if peak > 256 && !race.Detector { // whose own memory is in it
				t.Errorf("%s files: at most %d MiB resident, want 256", last[0], peak)
			}
		})
	}
}

// limitFiles is how many files a test of limits makes: n, or CMKFS_LIMIT_FILES.
func limitFiles(n int) int {
	if env, err := strconv.Atoi(os.Getenv("CMKFS_LIMIT_FILES")); err == nil {
		return env
	}
	return n
}

// volumeOnDisk makes and opens a volume on a real file system.
func volumeOnDisk(t *testing.T) (*meta.Volume, meta.Config) {
	t.Helper()
	return volumeWithJournal(t, 0)
}

// volumeWithJournal makes a volume on the disk with journal files of some bytes,
// 0 = DefaultJournalBytes.
func volumeWithJournal(t *testing.T, journal int64) (*meta.Volume, meta.Config) {
	t.Helper()
	st := must[*store.Dir](t)(store.OpenDir(t.TempDir()))
	cfg := meta.Config{Store: st, Key: crypto.NewKey()}
	if err := meta.Create(t.Context(), cfg, meta.Params{JournalBytes: journal, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])}); err != nil {
		t.Fatal(err)
	}
	return openVolume(t, cfg), cfg
}

// TestVolume_LargeDirectory: in a directory of many files each is listed once, is
// found, and goes. CMKFS_LIMIT_FILES is how many (1,000,000 take some minutes).
func TestVolume_LargeDirectory(t *testing.T) {
	n := limitFiles(20_000)
	v, cfg := volumeOnDisk(t)
	dir := must[meta.Attr](t)(v.Mkdir(meta.Caller{}, meta.RootIno, "d", 0o700)).Ino
	inos := make([]uint64, n)
	for i := range n {
		inos[i] = must[meta.Attr](t)(v.Mknod(meta.Caller{}, dir, scaleName(i), unix.S_IFREG|0o600, 0)).Ino
	}
	list := func(want int) {
		seen := make(map[string]int)
		if err := v.ReadDir(dir, 0, func(e meta.DirEntry) bool { seen[e.Name]++; return true }); err != nil {
			t.Fatal(err)
		}
		delete(seen, ".")
		delete(seen, "..")
		for name, times := range seen {
			if times != 1 {
				t.Errorf("%s was listed %d times", name, times)
			}
		}
		if len(seen) != want {
			t.Errorf("%d names listed, want %d", len(seen), want)
		}
	}
	list(n)
	for i := range n {
		j := int(uint64(i) * 2_654_435_761 % uint64(n))
		if a := must[meta.Attr](t)(v.Lookup(dir, scaleName(j))); a.Ino != inos[j] {
			t.Fatalf("%s is inode %d, want %d", scaleName(j), a.Ino, inos[j])
		}
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
	v = openVolume(t, cfg)
	list(n)
	for i := range n {
		must[bool](t)(true, v.Unlink(meta.Caller{}, dir, scaleName(i)))
		must[bool](t)(v.TryForget(inos[i]))
	}
	list(0)
	if a := must[meta.Attr](t)(v.GetAttr(meta.RootIno)); a.Nlink != 3 {
		t.Errorf("the root has %d links", a.Nlink)
	}
	if err := errors.Join(v.Rmdir(meta.Caller{}, meta.RootIno, "d"), v.Close(t.Context())); err != nil {
		t.Error(err)
	}
	checkClean(t, cfg)
}
