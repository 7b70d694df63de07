package meta_test

import (
	"bytes"
	"context"
	"math/rand"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// testVolume makes a volume in a temporary directory and returns how to open it.
func testVolume(t *testing.T, quota uint64) (meta.Config, func() *meta.Volume) {
	t.Helper()
	st, err := store.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	cfg := meta.Config{Store: st, Key: crypto.NewKey(), VolumeID: [16]byte{1, 2, 3}}
	err = meta.Create(context.Background(), cfg, meta.Params{
		JournalBytes: 1 << 20, Quota: quota, AEKID: "aek-1", SealedVEK: []byte("sealed"), Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:]),
	})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, func() *meta.Volume {
		t.Helper()
		v, err := meta.Open(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(x T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
}

func readAll(t *testing.T, v *meta.Volume, ino uint64) []byte {
	t.Helper()
	a := must[meta.Attr](t)(v.GetAttr(ino))
	buf := bytes.Repeat([]byte{0xaa}, int(a.Size))
	for off := 0; off < len(buf); {
		n := must[int](t)(v.Read(ino, buf[off:min(off+1<<20, len(buf))], int64(off)))
		off += n
	}
	return buf
}

// TestVolume_RandomData_SurvivesAbandonAndClose writes, truncates, punches and
// copies at random through many checkpoints, and compares with a byte slice.
func TestVolume_RandomData_SurvivesAbandonAndClose(t *testing.T) {
	cfg, open := testVolume(t, 0)
	v := open()
	rng := rand.New(rand.NewSource(1))
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "f", unix.S_IFREG|0o644, 0))
	var want []byte
	grow := func(n int) {
		if n > len(want) {
			want = append(want, make([]byte, n-len(want))...)
		}
	}
	const space = 3 << 20
	for i := range 1500 {
		off, n := rng.Intn(space), 1+rng.Intn(1<<uint(rng.Intn(19)))
		if rng.Intn(2) == 0 {
			off, n = off&^4095, (n+4095)&^4095
		}
		switch k := rng.Intn(20); {
		case k < 12:
			data := make([]byte, n)
			rng.Read(data)
			must[int](t)(v.Write(meta.Caller{}, a.Ino, data, int64(off)))
			grow(off + n)
			copy(want[off:], data)
		case k < 14:
			size := uint64(off)
			must[meta.Attr](t)(v.SetAttr(meta.Caller{}, a.Ino, meta.SetAttr{Size: &size}))
			grow(off)
			want = want[:off]
		case k < 16:
			if err := v.Fallocate(meta.Caller{}, a.Ino, meta.FallocPunchHole|meta.FallocKeepSize, int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
			if off < len(want) {
				clear(want[off:min(off+n, len(want))])
			}
		case k < 18:
			to := rng.Intn(space)
			if rng.Intn(2) == 0 {
				to &^= 4095
			}
			if to < off+n && off < to+n {
				continue
			}
			got := must[int64](t)(v.CopyRange(meta.Caller{}, a.Ino, int64(off), a.Ino, int64(to), int64(n)))
			if got > 0 {
				grow(to + int(got))
				copy(want[to:], bytes.Clone(want[off:off+int(got)]))
			}
		case k == 18:
			if err := v.Sync(context.Background()); err != nil {
				t.Fatal(err)
			}
		case i%3 == 0:
			if err := v.Abandon(); err != nil {
				t.Fatal(err)
			}
			v = open()
		default:
			if err := v.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			v = open()
		}
		if i%25 == 0 {
			if got := readAll(t, v, a.Ino); !bytes.Equal(got, want) {
				for p := 0; p < len(want); p += 4096 {
					if e := min(p+4096, len(want)); !bytes.Equal(got[p:e], want[p:e]) {
						t.Fatalf("after %d operations: %d bytes, want %d; page %d differs", i, len(got), len(want), p/4096)
					}
				}
				t.Fatalf("after %d operations: %d bytes, want %d", i, len(got), len(want))
			}
		}
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}

// checkClean runs the volume check with scrub; every test that makes a volume
// ends in it.
func checkClean(t *testing.T, cfg meta.Config) {
	t.Helper()
	findings, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Errorf("check: %s", f)
	}
}
