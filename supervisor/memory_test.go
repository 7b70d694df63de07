package supervisor_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/crypto"
	"cmkfs/hsm"
	"cmkfs/hsm/platform"
	"cmkfs/meta"
	"cmkfs/store"
)

// TestSuspend_NothingIsLeft looks for contents, names and keys in the state
// directory and in the memory of every process, while a volume is served and
// after it was suspended.
func TestSuspend_NothingIsLeft(t *testing.T) {
	r := newRig(t)
	random := func() string {
		b := make([]byte, 16)
		rand.Read(b)
		return hex.EncodeToString(b)
	}
	// Not constants: those would be in the daemon's program, which is ours.
	name, small, big, attr := random(), random(), random(), random()
	for path, content := range map[string]string{
		"f-" + name: small,
		"big":       strings.Repeat("x", 100_000) + big + strings.Repeat("y", 1<<20),
	} {
		if err := os.WriteFile(r.path(path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(attr, r.path("link")); err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{
		"name": []byte(name), "small file": []byte(small), "big file": []byte(big), "link": []byte(attr),
	}
	aek, vek := volumeKeys(t, r.dir)
	secrets["account encryption key"], secrets["volume key"] = aek[:], vek[:]

	// The search works: a serving worker has the volume key.
	served := r.workerPID()
	if found := searchMemory(t, served, secrets); !strings.Contains(strings.Join(found, ","), "volume key") {
		t.Errorf("found only %v in the memory of a serving worker", found)
	}
	// A key agent that has just handled keys is replaced as soon as it is idle.
	check := func(when string) {
		t.Helper()
		var found []string
		end := time.Now().Add(10 * time.Second)
		for {
			found = searchFiles(t, r.dir, secrets)
			for _, pid := range append(children(t, r.cmd.Process.Pid, "key-agent"), r.cmd.Process.Pid) {
				found = append(found, searchMemory(t, pid, secrets)...)
			}
			if len(found) == 0 || time.Now().After(end) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if len(found) > 0 {
			t.Errorf("%s: %v outside the worker", when, found)
		}
	}
	check("while served")
	if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
		t.Fatal(err)
	}
	if pids := children(t, r.cmd.Process.Pid, "worker"); len(pids) > 0 || alive(served) {
		t.Errorf("workers are left: %v", pids)
	}
	if _, err := os.Stat(r.path("f-" + name)); err == nil {
		t.Error("the name is still known")
	}
	check("while suspended")
}

// volumeKeys unwraps the keys of acct/vol, as the key agent does.
func volumeKeys(t *testing.T, stateDir string) (aek, vek crypto.Key) {
	t.Helper()
	dir, err := account.Open(stateDir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := dir.Account("acct")
	if err != nil {
		t.Fatal(err)
	}
	record := a.Current()
	key, err := platform.Open(t.Context(), hsm.PlatformConfig{KeyFile: dir.PlatformKeyPath()})
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	b, err := key.Unwrap(t.Context(), record.Wrapped)
	if err != nil {
		t.Fatal(err)
	}
	copy(aek[:], b)
	st, err := store.OpenDir(dir.VolumeDir("acct", "vol"))
	if err != nil {
		t.Fatal(err)
	}
	block, err := meta.ReadSuperblock(st)
	if err != nil {
		t.Fatal(err)
	}
	vek, err = crypto.OpenKey(aek, block.SealedVEK, append(block.VolumeID[:], record.ID...))
	if err != nil {
		t.Fatal(err)
	}
	if !crypto.CheckCommit(vek, block.VolumeID[:], block.Commitment) {
		t.Fatal("not the volume's key")
	}
	return aek, vek
}

// search returns the names of the secrets in b.
func search(b []byte, secrets map[string][]byte, found map[string]bool) {
	for name, s := range secrets {
		if bytes.Contains(b, s) {
			found[name] = true
		}
	}
}

// searchMemory looks through all readable memory of a process.
func searchMemory(t *testing.T, pid int, secrets map[string][]byte) []string {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil // it has ended, and its memory with it
	}
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found := map[string]bool{}
	buf := make([]byte, 1<<20)
	const overlap = 256
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "[v") { // the kernel's own pages
			continue
		}
		var from, to int64
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); err != nil {
			t.Fatal(err)
		}
		// The index's pages are ciphertext; a node table spans more than a
		// disk's size of nothing.
		if perm[0] != 'r' || strings.Contains(line, "memfd:") {
			continue
		}
		for at := from; at < to; at += int64(len(buf)) - overlap {
			n, err := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
			if n == 0 && err != nil {
				break
			}
			search(buf[:n], secrets, found)
		}
	}
	return names(found)
}

// searchFiles looks through all files below a directory, and at their names.
func searchFiles(t *testing.T, dir string, secrets map[string][]byte) []string {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		search([]byte(path), secrets, found)
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		search(b, secrets, found)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names(found)
}

func names(found map[string]bool) []string {
	var all []string
	for n := range found {
		all = append(all, n)
	}
	return all
}
