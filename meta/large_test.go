package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// Operations too large for one journal record are several. A crash in between
// may leave a part of them, but nothing else.

const largeRegions, largeStep = 300, 128 << 10

// largeFile makes a sparse file with a page of data in each of many regions.
func largeFile(t *testing.T, v *meta.Volume, name string) uint64 {
	t.Helper()
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, name, unix.S_IFREG|0o600, 0))
	for i := range largeRegions {
		must[int](t)(v.Write(meta.Caller{}, a.Ino, largePage(i), int64(i)*largeStep))
	}
	return a.Ino
}

func largePage(i int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("page%04d", i)), page/8) }

// largePages says how many of the pages from the begin are there; the others
// must be holes.
func largePages(v *meta.Volume, ino uint64) (n int, size uint64, err error) {
	a, err := v.GetAttr(ino)
	if err != nil {
		return 0, 0, err
	}
	for i := range largeRegions {
		buf := make([]byte, page)
		got, err := v.Read(ino, buf, int64(i)*largeStep)
		if err != nil {
			return 0, 0, err
		}
		switch {
		case got == page && bytes.Equal(buf, largePage(i)):
			if n != i {
				return 0, 0, fmt.Errorf("page %d is there and %d is not", i, n)
			}
			n++
		case bytes.Count(buf, []byte{0}) != page:
			return 0, 0, fmt.Errorf("page %d has another content", i)
		}
	}
	return n, a.Size, nil
}

func TestVolume_CrashInLargeOperations(t *testing.T) {
	full := uint64((largeRegions-1)*largeStep + page)
	for _, c := range []struct {
		name string
		do   func(v *meta.Volume, ino uint64) error
		// ok says whether that many pages and that size may be left; done, of the whole operation.
		ok func(pages int, size uint64, done bool) bool
	}{
		{"truncate", func(v *meta.Volume, ino uint64) error {
			size := uint64(5000)
			_, err := v.SetAttr(meta.Caller{}, ino, meta.SetAttr{Size: &size})
			return err
		}, func(pages int, size uint64, done bool) bool {
			if done {
				return pages == 1 && size == 5000
			}
			return pages == largeRegions && size == full || pages > 0 && size >= uint64(pages-1)*largeStep+page || pages == 1 && size == 5000
		}},
		{"punch", func(v *meta.Volume, ino uint64) error {
			return v.Fallocate(meta.Caller{}, ino, meta.FallocPunchHole|meta.FallocKeepSize, largeStep, int64(full))
		}, func(pages int, size uint64, done bool) bool {
			return size == full && pages >= 1 && (!done || pages == 1)
		}},
		{"forget", func(v *meta.Volume, ino uint64) error {
			return errors.Join(v.Unlink(meta.Caller{}, meta.RootIno, "large"), v.Forget(ino))
		}, func(pages int, size uint64, done bool) bool {
			return !done && (pages == largeRegions || pages <= largeRegions && size <= full)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec, err := store.NewRecorder(shm(t))
			if err != nil {
				t.Fatal(err)
			}
			defer rec.Close()
			h := &history{cfg: format(t, rec), rec: rec}
			v := must[*meta.Volume](t)(h.reopen(rec))
			ino := largeFile(t, v, "large")
			if err := v.Sync(context.Background()); err != nil {
				t.Fatal(err)
			}
			begin := rec.Len()
			if err := c.do(v, ino); err != nil {
				t.Fatal(err)
			}
			end := rec.Len()
			if end-begin < 2 {
				t.Fatalf("only %d events: the operation was not large", end-begin)
			}
			if err := v.Sync(context.Background()); err != nil {
				t.Fatal(err)
			}
			synced := rec.Len()
			if err := v.Abandon(); err != nil {
				t.Fatal(err)
			}
			for upto := begin; upto <= synced; upto++ {
				for i, keep := range keeps {
					crash := func() (*store.Recorder, error) {
						return rec.State(upto, keep.make(rand.New(rand.NewPCG(1, uint64(upto)))))
					}
					if i == 0 {
						crash = func() (*store.Recorder, error) { return rec.Killed(upto) }
					}
					crashed := must[*store.Recorder](t)(crash())
					done := upto == synced || i == 0 && upto >= end && c.name != "forget" // which nobody waits for
					v := must[*meta.Volume](t)(h.reopen(crashed))
					pages, size, err := largePages(v, ino)
					if gone := errors.Is(err, meta.ErrStale); gone && c.name == "forget" {
						err = nil
					} else if err == nil && !c.ok(pages, size, done) {
						err = fmt.Errorf("%d pages and %d bytes are left", pages, size)
					}
					// The orphan is removed by whoever opens the volume next.
					for _, orphan := range v.Orphans() {
						err = errors.Join(err, v.Forget(orphan))
					}
					if err := errors.Join(err, v.Close(context.Background()), h.check(crashed)); err != nil {
						t.Errorf("event %d of %d, keeps %s: %v", upto, synced, keep.name, err)
					}
					crashed.Close()
				}
			}
		})
	}
}

// TryForget removes what takes one operation, and leaves the rest to Forget.
func TestVolume_TryForget(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	v := openVolume(t, format(t, rec))
	defer v.Abandon()
	quiet := 0 // forgets without a write, unless the background writes meanwhile
	for i := range 20 {
		name := fmt.Sprint("small", i)
		small := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, name, unix.S_IFREG|0o600, 0)).Ino
		if done, err := v.TryForget(small); !done || err != nil {
			t.Errorf("with a name: done %v, %v", done, err)
		}
		must[meta.Attr](t)(v.GetAttr(small))
		if err := v.Unlink(meta.Caller{}, meta.RootIno, name); err != nil {
			t.Fatal(err)
		}
		before := rec.Len()
		if done, err := v.TryForget(small); !done || err != nil {
			t.Errorf("small: done %v, %v", done, err)
		}
		if rec.Len() == before {
			quiet++
		}
	}
	if quiet == 0 {
		t.Error("each forget of a small file was written by itself")
	}
	large := largeFile(t, v, "large")
	if err := v.Unlink(meta.Caller{}, meta.RootIno, "large"); err != nil {
		t.Fatal(err)
	}
	if done, err := v.TryForget(large); done || err != nil {
		t.Errorf("large: done %v, %v", done, err)
	}
	if err := v.Forget(large); err != nil {
		t.Fatal(err)
	}
	if left := v.Orphans(); len(left) != 0 {
		t.Errorf("left: %d", left)
	}
}
