package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// smallHost mounts a tmpfs of a size and returns a store on it.
func smallHost(t *testing.T, bytes int64) (meta.Config, string) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		t.Fatalf("mount tmpfs (the tests run as root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	st, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	cfg := meta.Config{Store: st, Key: crypto.NewKey()}
	err = meta.Create(context.Background(), cfg, meta.Params{JournalBytes: 4 << 20, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, dir
}

func openVolume(t *testing.T, cfg meta.Config) *meta.Volume {
	t.Helper()
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// fillUp writes files of size bytes until there is no space, and returns how
// many were written completely. Their content is seeded by their number.
func fillUp(t *testing.T, v *meta.Volume, size int) int {
	t.Helper()
	for n := 0; ; n++ {
		a, err := v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint("file", n), unix.S_IFREG|0o600, 0)
		if err == nil {
			_, err = v.Write(meta.Caller{}, a.Ino, content(n, size), 0)
		}
		if errors.Is(err, meta.ErrNoSpace) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if n > 100_000 {
			t.Fatal("the host never fills up")
		}
	}
}

func content(n, size int) []byte {
	b := make([]byte, size)
	rand.New(rand.NewSource(int64(n))).Read(b)
	return b
}

func verify(t *testing.T, v *meta.Volume, n, size int) {
	t.Helper()
	a := must[meta.Attr](t)(v.Lookup(meta.RootIno, fmt.Sprint("file", n)))
	if got := readAll(t, v, a.Ino); string(got) != string(content(n, size)) {
		t.Fatalf("file %d has other content (%d bytes)", n, len(got))
	}
}

func remove(t *testing.T, v *meta.Volume, n int) {
	t.Helper()
	name := fmt.Sprint("file", n)
	a := must[meta.Attr](t)(v.Lookup(meta.RootIno, name))
	if err := v.Unlink(meta.Caller{}, meta.RootIno, name); err != nil {
		t.Fatalf("unlink on a full host: %v", err)
	}
	if err := v.Forget(a.Ino); err != nil {
		t.Fatalf("reclaim on a full host: %v", err)
	}
}

// eventually waits for background work, up to a hang guard.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still not so: ", what)
		}
	}
}

// TestVolume_FullHost_RefusesGrowthKeepsAnswersAllowsDeletes fills the host
// directory with small and large writes.
func TestVolume_FullHost_RefusesGrowthKeepsAnswersAllowsDeletes(t *testing.T) {
	for _, size := range []int{3000, 200_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cfg, _ := smallHost(t, 160<<20)
			v := openVolume(t, cfg)
			n := fillUp(t, v, size)
			if n == 0 {
				t.Fatal("nothing fitted")
			}
			for i := 0; i < n; i += 7 {
				verify(t, v, i, size)
			}
			for i := 0; i < n; i += 2 {
				remove(t, v, i)
			}
			eventually(t, "freed space can be used again", func() bool {
				a, err := v.Mknod(meta.Caller{}, meta.RootIno, "again", unix.S_IFREG|0o600, 0)
				if errors.Is(err, meta.ErrExist) {
					return true
				}
				if err == nil {
					_, err = v.Write(meta.Caller{}, a.Ino, content(0, size), 0)
				}
				return err == nil
			})
			if err := v.Abandon(); err != nil {
				t.Fatal(err)
			}
			v = openVolume(t, cfg)
			for i := 1; i < n; i += 2 {
				verify(t, v, i, size)
			}
			if err := v.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			checkClean(t, cfg)
		})
	}
}

// TestVolume_HostFilledByOthers_RecoversWhenThereIsRoom takes every last byte
// of the host away, so that not even a checkpoint can be written.
func TestVolume_HostFilledByOthers_RecoversWhenThereIsRoom(t *testing.T) {
	cfg, dir := smallHost(t, 120<<20)
	v := openVolume(t, cfg)
	const size = 3000
	for n := range 300 {
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint("file", n), unix.S_IFREG|0o600, 0))
		must[int](t)(v.Write(meta.Caller{}, a.Ino, content(n, size), 0))
	}
	hog := filepath.Join(dir, "hog")
	f := must[*os.File](t)(os.Create(hog))
	chunk := make([]byte, 1<<20)
	for {
		if _, err := f.Write(chunk); err != nil {
			break
		}
	}
	f.Close()
	if err := v.Sync(context.Background()); err != nil {
		t.Fatalf("fsync of what was written before: %v", err)
	}
	if _, err := v.Mknod(meta.Caller{}, meta.RootIno, "more", unix.S_IFREG|0o600, 0); !errors.Is(err, meta.ErrNoSpace) {
		t.Fatalf("create on a full host: %v", err)
	}
	for n := 0; n < 300; n += 2 {
		remove(t, v, n)
	}
	if err := v.Close(context.Background()); err != nil { // cannot checkpoint: the journal keeps everything
		t.Fatal(err)
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	v = openVolume(t, cfg)
	for n := 1; n < 300; n += 2 {
		verify(t, v, n, size)
	}
	if _, err := v.Lookup(meta.RootIno, "file0"); !errors.Is(err, meta.ErrNotFound) {
		t.Fatalf("a removed file is back: %v", err)
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}

func TestVolume_Quota_RefusesAndFrees(t *testing.T) {
	cfg, open := testVolume(t, 1<<20)
	v := open()
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "f", unix.S_IFREG|0o600, 0))
	must[int](t)(v.Write(meta.Caller{}, a.Ino, content(1, 900<<10), 0))
	if n, err := v.Write(meta.Caller{}, a.Ino, content(2, 300<<10), 900<<10); !errors.Is(err, meta.ErrQuota) {
		t.Fatalf("write over the quota: %d, %v", n, err)
	}
	must[int](t)(v.Write(meta.Caller{}, a.Ino, content(3, 900<<10), 0)) // overwriting needs no more
	u := must[meta.Usage](t)(v.Statfs())
	if u.UsedBytes != 900<<10 || u.FreeBytes != 124<<10 || u.QuotaBytes != 1<<20 {
		t.Fatalf("statfs: %+v", u)
	}
	size := uint64(0)
	must[meta.Attr](t)(v.SetAttr(meta.Caller{}, a.Ino, meta.SetAttr{Size: &size}))
	must[int](t)(v.Write(meta.Caller{}, a.Ino, content(2, 1<<20), 0))
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}
