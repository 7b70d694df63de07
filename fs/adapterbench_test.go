package fs_test

import (
	"fmt"
	"testing"

	"cmkfs/fs"
	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// listed is a volume whose directories have one fixed list of entries.
type listed struct {
	*memVolume
	entries []meta.DirEntry
}

func (l listed) ReadDir(_, cookie uint64, fn func(meta.DirEntry) bool) error {
	for _, e := range l.entries[cookie:] {
		if !fn(e) {
			break
		}
	}
	return nil
}

// BenchmarkAdapter measures what the adapter itself adds to an operation of the
// volume, which is in memory here: no kernel, no message.
func BenchmarkAdapter(b *testing.B) {
	const files = 1000
	v := listed{memVolume: newMemVolume()}
	dir, err := v.Mknod(meta.Caller{}, meta.RootIno, "d", unix.S_IFDIR|0o755, 0)
	must(b, err)
	for i := range files {
		name := fmt.Sprintf("f%04d", i)
		at, err := v.Mknod(meta.Caller{}, dir.Ino, name, unix.S_IFREG|0o644, 0)
		must(b, err)
		v.entries = append(v.entries, meta.DirEntry{Name: name, Ino: at.Ino, Mode: unix.S_IFREG, Cookie: uint64(i + 1)})
	}
	a := fs.NewAdapter(b, v)
	ok := func(b *testing.B, st fuse.Status) {
		if !st.Ok() {
			b.Fatal(st)
		}
	}
	b.Run("lookup", func(b *testing.B) {
		b.ReportAllocs()
		var out fuse.EntryOut
		in := fuse.InHeader{NodeId: dir.Ino}
		for b.Loop() {
			ok(b, a.Lookup(nil, &in, "f0500", &out))
		}
	})
	b.Run("getattr", func(b *testing.B) {
		b.ReportAllocs()
		var out fuse.AttrOut
		in := fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: dir.Ino}}
		for b.Loop() {
			ok(b, a.GetAttr(nil, &in, &out))
		}
	})
	// Of the whole directory, 1,000 entries.
	b.Run("readdirplus", func(b *testing.B) {
		b.ReportAllocs()
		reply := make([]byte, 1<<20)
		in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: dir.Ino}, Size: uint32(len(reply))}
		for b.Loop() {
			ok(b, a.ReadDirPlus(nil, &in, fuse.NewDirEntryList(reply, 0)))
		}
	})
}
