package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// TestIndex_DamagedPage flips a bit in every page of the index: it is reported
// with the page's number, or the page is in no use.
func TestIndex_DamagedPage(t *testing.T) {
	cfg, dir := damagedVolume(t)
	path := filepath.Join(dir, "index.db")
	info := must[os.FileInfo](t)(os.Stat(path))
	rnd := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for page := range info.Size() / 4096 {
		if page > 64 { // the file is mostly room to grow
			break
		}
		flip := func(off int64, bit byte) {
			f := must[*os.File](t)(os.OpenFile(path, os.O_RDWR, 0))
			defer f.Close()
			var b [1]byte
			must[int](t)(f.ReadAt(b[:], off))
			b[0] ^= bit
			must[int](t)(f.WriteAt(b[:], off))
		}
		off, bit := page*4096+rnd.Int64N(4096), byte(1)<<rnd.IntN(8)
		flip(off, bit)
		v, err := meta.Open(context.Background(), cfg)
		var c *meta.CorruptError
		switch {
		case err == nil:
			if err := v.Abandon(); err != nil {
				t.Fatal(err)
			}
			checkClean(t, cfg)
		case !errors.As(err, &c) || !strings.Contains(err.Error(), fmt.Sprintf("page %d", page)):
			t.Errorf("page %d, byte %d: %v", page, off%4096, err)
		default:
			refused++
			findings := must[[]meta.Finding](t)(meta.Check(context.Background(), cfg, meta.CheckOptions{}))
			if len(findings) != 1 {
				t.Errorf("page %d: %v", page, findings)
			}
		}
		flip(off, bit)
	}
	if refused < 5 {
		t.Errorf("only %d pages were refused", refused)
	}
	checkClean(t, cfg)
}

// TestIndex_NoRoomForTags lets bbolt commit and then refuses the tags, again
// and again: nothing is lost, and when there is room the volume goes on.
func TestIndex_NoRoomForTags(t *testing.T) {
	st := must[*store.Dir](t)(store.OpenDir(t.TempDir()))
	defer st.Close()
	var full atomic.Bool
	faulty := store.NewFaulty(st, func(op store.Op) *store.Fault {
		if full.Load() && op.Call == "WriteAt" && op.Name == "index.tags" {
			return &store.Fault{Err: syscall.ENOSPC}
		}
		return nil
	})
	cfg := meta.Config{Store: faulty, Key: crypto.NewKey()}
	err := meta.Create(context.Background(), cfg, meta.Params{JournalBytes: 4 << 20, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])})
	if err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, cfg)
	n := 0
	more := func() {
		for range 50 {
			var a meta.Attr
			eventually(t, "the background has seen that there is room", func() (ok bool) {
				var err error
				a, err = v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint("file", n), unix.S_IFREG|0o600, 0)
				return err == nil
			})
			must[int](t)(v.Write(meta.Caller{}, a.Ino, content(n, 3000), 0))
			n++
		}
	}
	for range 4 {
		for range 3 {
			more()
			full.Store(true)
			if err := v.Checkpoint(); !errors.Is(err, meta.ErrNoSpace) {
				t.Fatalf("checkpoint: %v", err)
			}
			full.Store(false)
		}
		if n > 300 {
			if err := v.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			more()
		}
		if err := v.Abandon(); err != nil {
			t.Fatal(err)
		}
		checkClean(t, cfg)
		v = openVolume(t, cfg)
		for i := range n {
			verify(t, v, i, 3000)
		}
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}

// TestTags_StayShort writes many checkpoints: the tags take a two-hundredth of
// the index and some slack, however many there were.
func TestTags_StayShort(t *testing.T) {
	cfg, dir := damagedVolume(t)
	v := openVolume(t, cfg)
	for i := range 400 {
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint(i), unix.S_IFREG|0o600, 0))
		must[int](t)(v.Write(meta.Caller{}, a.Ino, content(i, 2000), 0))
		if err := v.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			if err := v.Abandon(); err != nil {
				t.Fatal(err)
			}
			v = openVolume(t, cfg)
		}
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
	if size := must[os.FileInfo](t)(os.Stat(filepath.Join(dir, "index.tags"))).Size(); size > 400<<10 {
		t.Errorf("index.tags has %d bytes", size)
	}
}

// BenchmarkIndex_Verify opens a volume of 200,000 small files; bytes are those
// of the index in use.
func BenchmarkIndex_Verify(b *testing.B) {
	st, err := store.OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	cfg := meta.Config{Store: st, Key: crypto.NewKey()}
	if err := meta.Create(context.Background(), cfg, meta.Params{Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])}); err != nil {
		b.Fatal(err)
	}
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 200_000 {
		a, err := v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint(i), unix.S_IFREG|0o600, 0)
		if err == nil {
			_, err = v.Write(meta.Caller{}, a.Ino, content(i, 500), 0)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := v.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		pages, err := meta.VerifyIndex(cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(pages * 4096)
	}
}
