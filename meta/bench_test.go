package meta_test

import (
	"context"
	"fmt"
	"math/rand"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// benchVolume opens a volume with default parameters in a temporary directory.
func benchVolume(b *testing.B) *meta.Volume {
	b.Helper()
	st, err := store.OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	cfg := meta.Config{Store: st, Key: crypto.NewKey()}
	if err := meta.Create(context.Background(), cfg, meta.Params{Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])}); err != nil {
		b.Fatal(err)
	}
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { v.Close(context.Background()) })
	return v
}

func mknod(b *testing.B, v *meta.Volume, name string) uint64 {
	b.Helper()
	a, err := v.Mknod(meta.Caller{}, meta.RootIno, name, unix.S_IFREG|0o644, 0)
	if err != nil {
		b.Fatal(err)
	}
	return a.Ino
}

// BenchmarkVolume_Create makes files of 4 KiB: a name and a write each.
func BenchmarkVolume_Create(b *testing.B) {
	v := benchVolume(b)
	data := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		ino := mknod(b, v, fmt.Sprintf("f%07d", i))
		if _, err := v.Write(meta.Caller{}, ino, data, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVolume_Write writes one file front to back in requests of a size.
func BenchmarkVolume_Write(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			v := benchVolume(b)
			ino := mknod(b, v, "f")
			data := make([]byte, size)
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				if _, err := v.Write(meta.Caller{}, ino, data, int64(i%1024)*int64(size)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchFile makes a volume with a file of 256 MiB.
func benchFile(b *testing.B) (v *meta.Volume, ino uint64) {
	b.Helper()
	v = benchVolume(b)
	ino = mknod(b, v, "f")
	data := make([]byte, 1<<20)
	for i := range 256 {
		if _, err := v.Write(meta.Caller{}, ino, data, int64(i)<<20); err != nil {
			b.Fatal(err)
		}
	}
	return v, ino
}

// BenchmarkVolume_Overwrite overwrites 4 KiB at a time of a 256 MiB file, at random,
// with what the background has to do because of it.
func BenchmarkVolume_Overwrite(b *testing.B) {
	v, ino := benchFile(b)
	rng := rand.New(rand.NewSource(1))
	data := make([]byte, 4096)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := v.Write(meta.Caller{}, ino, data, int64(rng.Intn(256<<20/len(data))*len(data))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVolume_Read reads from a 256 MiB file in requests of a size.
func BenchmarkVolume_Read(b *testing.B) {
	v, ino := benchFile(b)
	data := make([]byte, 1<<20)
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				off := int64(i*7919) * int64(size) % (255 << 20)
				if _, err := v.Read(ino, data[:size], off); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVolume_Read_AccessTimes reads 4 KiB of one file by each rule.
func BenchmarkVolume_Read_AccessTimes(b *testing.B) {
	v := benchVolume(b)
	ino := mknod(b, v, "f")
	data := make([]byte, 1<<20)
	if _, err := v.Write(meta.Caller{}, ino, data, 0); err != nil {
		b.Fatal(err)
	}
	for _, rule := range []meta.AccessRule{meta.AccessNever, meta.AccessRelative, meta.AccessAlways} {
		b.Run([]string{"never", "relative", "always"}[rule], func(b *testing.B) {
			v.SetAccessTimes(meta.AccessTimes{Files: rule})
			for i := 0; b.Loop(); i++ {
				if _, err := v.Read(ino, data[:4096], int64(i*7919%256)*4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVolume_WriteSync writes 4 KiB and makes them durable.
func BenchmarkVolume_WriteSync(b *testing.B) {
	v := benchVolume(b)
	ino := mknod(b, v, "f")
	data := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		if _, err := v.Write(meta.Caller{}, ino, data, int64(i%4096)*4096); err != nil {
			b.Fatal(err)
		}
		if err := v.Sync(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVolume_Commit makes a directory's attributes durable: one small
// record and one flush of the journal, alone and from many clients at once, who
// share flushes.
func BenchmarkVolume_Commit(b *testing.B) {
	commit := func(b *testing.B, v *meta.Volume, mode uint32) {
		if _, err := v.SetAttr(meta.Caller{}, meta.RootIno, meta.SetAttr{Mode: &mode}); err != nil {
			b.Error(err)
		}
		if err := v.Sync(context.Background()); err != nil {
			b.Error(err)
		}
	}
	b.Run("alone", func(b *testing.B) {
		v := benchVolume(b)
		for i := 0; b.Loop(); i++ {
			commit(b, v, 0o700+uint32(i%8))
		}
	})
	b.Run("together", func(b *testing.B) {
		v := benchVolume(b)
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				commit(b, v, 0o700+uint32(i%8))
			}
		})
	})
}
