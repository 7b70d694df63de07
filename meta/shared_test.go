package meta_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// slowReads is a store whose segments are slow to read, as on a busy disk:
// what a read looked up moves away before it arrives.
type slowReads struct{ store.Store }

type slowFile struct{ store.File }

func (s slowReads) Open(name string) (store.File, error) { return slow(name)(s.Store.Open(name)) }
func (s slowReads) Create(name string, size int64) (store.File, error) {
	return slow(name)(s.Store.Create(name, size))
}

func slow(name string) func(store.File, error) (store.File, error) {
	return func(f store.File, err error) (store.File, error) {
		if err == nil && strings.HasPrefix(name, "segments/") {
			f = slowFile{f}
		}
		return f, err
	}
}

func (f slowFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(3 * time.Millisecond)
	return f.File.ReadAt(p, off)
}

// TestVolume_SharedFile: several readers and writers of one file while data
// moves from journal to segments and dead blocks are punched under them. Every
// page read is one that was written there, and no read fails.
func TestVolume_SharedFile(t *testing.T) {
	cfg, _ := testVolume(t, 0)
	t.Run("fast", func(t *testing.T) { sharedFile(t, cfg, 256) })
	cfg, _ = testVolume(t, 0)
	cfg.Store = slowReads{cfg.Store}
	t.Run("slow reads", func(t *testing.T) { sharedFile(t, cfg, 40) })
}

func sharedFile(t *testing.T, cfg meta.Config, pages int) {
	v := openVolume(t, cfg)
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "f", unix.S_IFREG|0o600, 0))
	fill := func(first, n int, version uint64) []byte {
		var b []byte
		for p := first; p < first+n; p++ {
			one := binary.LittleEndian.AppendUint64(nil, version)
			one = binary.LittleEndian.AppendUint64(one, uint64(p))
			b = append(b, bytes.Repeat(one, page/16)...)
		}
		return b
	}
	must[int](t)(v.Write(meta.Caller{}, a.Ino, fill(0, pages, 0), 0))
	var versions atomic.Uint64
	var reads atomic.Uint64
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	run := func(n int, fn func(rnd *rand.Rand) error) {
		for i := range n {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(n), uint64(i)))
				for ctx.Err() == nil {
					if err := fn(rnd); err != nil {
						t.Error(err)
						cancel()
						return
					}
				}
			})
		}
	}
	span := func(rnd *rand.Rand) (first, n int) {
		n = 1 + rnd.IntN(32)
		return rnd.IntN(pages - n), n
	}
	run(3, func(rnd *rand.Rand) error {
		first, n := span(rnd)
		_, err := v.Write(meta.Caller{}, a.Ino, fill(first, n, versions.Add(1)), int64(first)*page)
		return err
	})
	run(1, func(rnd *rand.Rand) error {
		first, n := span(rnd)
		return v.Fallocate(meta.Caller{}, a.Ino, meta.FallocPunchHole|meta.FallocKeepSize, int64(first)*page, int64(min(n, 3))*page)
	})
	run(3, func(rnd *rand.Rand) error {
		first, n := span(rnd)
		buf := make([]byte, n*page)
		if got, err := v.Read(a.Ino, buf, int64(first)*page); err != nil || got != len(buf) {
			return fmt.Errorf("read of %d pages from %d: %d, %w", n, first, got, err)
		}
		for i := range n {
			one := buf[i*page : (i+1)*page]
			version := binary.LittleEndian.Uint64(one)
			if !bytes.Equal(one, fill(first+i, 1, version)) && bytes.Count(one, []byte{0}) != page {
				return fmt.Errorf("page %d is mixed or another page's", first+i)
			}
			if version > versions.Load() {
				return fmt.Errorf("page %d is of the future", first+i)
			}
		}
		reads.Add(1)
		return nil
	})
	run(1, func(rnd *rand.Rand) error {
		time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
		if rnd.IntN(3) == 0 {
			return v.Checkpoint()
		}
		return v.Sync(context.Background())
	})
	wg.Wait()
	if reads.Load() < 10 {
		t.Errorf("only %d reads", reads.Load())
	}
	t.Logf("%d reads, %d writes", reads.Load(), versions.Load())
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if found, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true}); err != nil || len(found) > 0 {
		t.Errorf("check: %v, %v", found, err)
	}
}
