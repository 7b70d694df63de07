package store_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"cmkfs/store"
)

func blocks(st fs.FileInfo) int64 { return st.Sys().(*syscall.Stat_t).Blocks }

// TestDir_Full fills a file system of its own, in a mount namespace, so it
// needs root.
func TestDir_Full(t *testing.T) {
	if os.Getenv("CMKFS_TEST_FULL") == "" {
		dir := t.TempDir()
		cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs -o size=1m none "$1" && CMKFS_TEST_FULL="$1" exec "$0" -test.run '^TestDir_Full$' -test.v`, os.Args[0], dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv("CMKFS_TEST_FULL")
	d := openDir(t, dir)
	_, err := d.Create("big", 2<<20)
	wantErr(t, "Create", err, store.ErrFull)
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("a failed Create left %d files", len(entries))
	}
	f, err := d.Create("f", 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 2<<20), 0)
	wantErr(t, "WriteAt", err, store.ErrFull)
	must(t, d.Remove("f"))
	if free, err := d.Free(); err != nil || free > 1<<20 {
		t.Errorf("Free = %d, %v", free, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "f")); !os.IsNotExist(err) {
		t.Errorf("Stat: %v", err)
	}
}
