package store

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// CanWriteBehind asks the host whether it writes to a file without keeping what is
// written.
func CanWriteBehind(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = unix.Pwritev2(int(f.Fd()), [][]byte{{0}}, 1<<30, unix.RWF_DONTCACHE)
	return err == nil && writesBehind()
}
