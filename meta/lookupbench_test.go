package meta_test

import (
	"fmt"
	"testing"

	"cmkfs/meta"
)

// manyFiles makes a volume with files "f0000000" and so on in its root, and a
// checkpoint, so that they are found in the index.
func manyFiles(b *testing.B, n int) (*meta.Volume, []uint64) {
	b.Helper()
	v := benchVolume(b)
	inos := make([]uint64, n)
	for i := range inos {
		inos[i] = mknod(b, v, fmt.Sprintf("f%07d", i))
	}
	if err := v.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	return v, inos
}

// benchFiles are more than a readdirplus reply has, and few enough to be made
// for every benchmark.
const benchFiles = 20_000

// BenchmarkVolume_Lookup finds names, in no order of the index.
func BenchmarkVolume_Lookup(b *testing.B) {
	v, _ := manyFiles(b, benchFiles)
	for i := 0; b.Loop(); i++ {
		if _, err := v.Lookup(meta.RootIno, fmt.Sprintf("f%07d", i*7919%benchFiles)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVolume_GetAttr reads attributes: of one inode that only the journal
// has, and of many in the index.
func BenchmarkVolume_GetAttr(b *testing.B) {
	b.Run("overlay", func(b *testing.B) {
		v := benchVolume(b)
		ino := mknod(b, v, "f")
		for b.Loop() {
			if _, err := v.GetAttr(ino); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("index", func(b *testing.B) {
		v, inos := manyFiles(b, benchFiles)
		for i := 0; b.Loop(); i++ {
			if _, err := v.GetAttr(inos[i*7919%benchFiles]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkVolume_ReadDir lists a directory with the attributes of each entry, as
// readdirplus asks for them; per entry.
func BenchmarkVolume_ReadDir(b *testing.B) {
	v, _ := manyFiles(b, benchFiles)
	var cookie uint64
	b.ResetTimer()
	for left := b.N; left > 0; {
		var es []meta.DirEntry
		if err := v.ReadDir(meta.RootIno, cookie, func(e meta.DirEntry) bool {
			es = append(es, e)
			return len(es) < min(left, 1000)
		}); err != nil {
			b.Fatal(err)
		}
		if len(es) == 0 {
			cookie = 0 // from the beginning
			continue
		}
		for _, e := range es {
			if _, err := v.GetAttr(e.Ino); err != nil {
				b.Fatal(err)
			}
		}
		left, cookie = left-len(es), es[len(es)-1].Cookie
	}
}

// BenchmarkVolume_Extent looks up where a position of a file lies: it reads holes
// between the blocks of a file, which needs nothing but that.
func BenchmarkVolume_Extent(b *testing.B) {
	const block, blocks = 16 << 10, 8192
	v := benchVolume(b)
	ino := mknod(b, v, "f")
	data := make([]byte, block)
	for i := range int64(blocks) {
		if _, err := v.Write(meta.Caller{}, ino, data, i*2*block); err != nil {
			b.Fatal(err)
		}
	}
	if err := v.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	for i := int64(0); b.Loop(); i++ {
		if _, err := v.Read(ino, data[:512], (i*7919%blocks*2+1)*block); err != nil {
			b.Fatal(err)
		}
	}
}
