package meta_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// What is kept decoded has one place for each inode and each map, which others
// share: none must be taken for another, before or after a change.
func TestVolume_SharedPlaces(t *testing.T) {
	cfg, open := testVolume(t, 0)
	v := open()
	// The files' numbers follow each other: those 4096 apart share a place.
	const files = 1<<13 + 8
	inos := make([]uint64, files)
	for i := range inos {
		inos[i] = must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint(i), unix.S_IFREG|0o600, 0)).Ino
	}
	first, last := inos[:8], inos[files-8:]
	check := func(size func(ino uint64) uint64) {
		t.Helper()
		for range 2 { // the second time some are kept
			for i := range first {
				for _, ino := range []uint64{first[i], last[i]} {
					if a := must[meta.Attr](t)(v.GetAttr(ino)); a.Ino != ino || a.Size != size(ino) {
						t.Fatalf("inode %d is shown as %d with %d bytes, want %d", ino, a.Ino, a.Size, size(ino))
					}
				}
			}
		}
	}
	check(func(uint64) uint64 { return 0 })
	for i := range first {
		for _, ino := range []uint64{first[i], last[i]} {
			must[meta.Attr](t)(v.SetAttr(meta.Caller{}, ino, meta.SetAttr{Size: &ino}))
		}
	}
	check(func(ino uint64) uint64 { return ino })

	// There are more maps than places.
	content := func(ino uint64) []byte { return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, ino), 1024) }
	for _, ino := range inos {
		must[int](t)(v.Write(meta.Caller{}, ino, content(ino), 0))
	}
	got := make([]byte, 8192)
	for _, ino := range inos {
		if must[int](t)(v.Read(ino, got, 0)); !bytes.Equal(got, content(ino)) {
			t.Fatalf("inode %d has other data", ino)
		}
	}

	// The maps of one file share their places from 1 GiB on.
	const apart = 1 << 30
	page := func(i, round int) []byte { return bytes.Repeat([]byte{byte(1 + i + 10*round)}, 8192) }
	for round := range 3 {
		for i := range 3 {
			must[int](t)(v.Write(meta.Caller{}, first[0], page(i, round), int64(i)*apart))
		}
		for range 2 {
			for i := range 3 {
				if must[int](t)(v.Read(first[0], got, int64(i)*apart)); !bytes.Equal(got, page(i, round)) {
					t.Fatalf("round %d: what lies at %d GiB reads as %d…, want %d…", round, i, got[0], page(i, round)[0])
				}
			}
		}
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}
