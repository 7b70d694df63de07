package main

import (
	"bytes"
	"errors"
	"testing"

	"cmkfs/meta"

	"golang.org/x/sys/unix"
)

// TestEngine: it has to answer rightly, or the workloads would measure errors.
func TestEngine(t *testing.T) {
	e, c := newEngine(true), meta.Caller{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	names := func(ino uint64) (all []string) {
		t.Helper()
		for cookie, more := uint64(0), true; more; { // one entry at a time
			more = false
			must(e.ReadDir(ino, cookie, func(d meta.DirEntry) bool {
				if more {
					return false
				}
				all, cookie, more = append(all, d.Name), d.Cookie, true
				return true
			}))
		}
		return all[2:]
	}
	d, err := e.Mkdir(c, meta.RootIno, "d", 0o755)
	must(err)
	for _, n := range []string{"a", "b", "c", "x"} {
		_, err := e.Mknod(c, d.Ino, n, unix.S_IFREG|0o644, 0)
		must(err)
	}
	if _, err := e.Mknod(c, d.Ino, "a", unix.S_IFREG, 0); !errors.Is(err, meta.ErrExist) {
		t.Errorf("a second a: %v", err)
	}
	must(e.Unlink(c, d.Ino, "a"))
	must(e.Unlink(c, d.Ino, "b"))
	must(e.Unlink(c, d.Ino, "x"))
	must(e.Rename(c, d.Ino, "c", meta.RootIno, "moved", 0))
	if got := append(names(d.Ino), names(meta.RootIno)...); len(got) != 2 || got[0] != "d" || got[1] != "moved" {
		t.Errorf("names %q", got)
	}
	if err := e.Unlink(c, d.Ino, "a"); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("unlink twice: %v", err)
	}
	must(e.Rmdir(c, meta.RootIno, "d"))

	f, err := e.Lookup(meta.RootIno, "moved")
	must(err)
	data := bytes.Repeat([]byte("content "), 2000)
	if _, err := e.Write(c, f.Ino, data, 5000); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 30000)
	n, err := e.Read(f.Ino, got, 0)
	must(err)
	if want := append(make([]byte, 5000), data...); !bytes.Equal(got[:n], want) {
		t.Errorf("read back %d bytes, not the %d written", n, len(want))
	}
	size := uint64(5003)
	_, err = e.SetAttr(c, f.Ino, meta.SetAttr{Size: &size})
	must(err)
	_, err = e.Write(c, f.Ino, []byte{1}, 5010)
	must(err)
	n, err = e.Read(f.Ino, got, 5000)
	must(err)
	if want := []byte("con\x00\x00\x00\x00\x00\x00\x00\x01"); !bytes.Equal(got[:n], want) {
		t.Errorf("after truncation: %q", got[:n])
	}
	must(e.Unlink(c, meta.RootIno, "moved"))
	if _, err := e.GetAttr(f.Ino); err != nil {
		t.Errorf("unlinked and held: %v", err)
	}
	must(e.Forget(f.Ino))
	if _, err := e.GetAttr(f.Ino); !errors.Is(err, meta.ErrStale) {
		t.Errorf("forgotten: %v", err)
	}

	drop := newEngine(false)
	g, err := drop.Mknod(c, meta.RootIno, "g", unix.S_IFREG|0o644, 0)
	must(err)
	_, err = drop.Write(c, g.Ino, data, 0)
	must(err)
	if n, err := drop.Read(g.Ino, got, 0); err != nil || n != len(data) || !bytes.Equal(got[:n], make([]byte, n)) {
		t.Errorf("without -keep: %d bytes, %v", n, err)
	}
}
