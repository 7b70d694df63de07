package meta_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// TestVolume_CheckpointStalls: while a checkpoint writes changes that are spread
// over a whole directory, and gives dead blocks back to the host, operations go on.
// How long they take is printed; judged is only that none waits for the whole
// checkpoint. CMKFS_LIMIT_FILES is how many files are changed.
func TestVolume_CheckpointStalls(t *testing.T) {
	files := limitFiles(10_000)
	v, cfg := volumeOnDisk(t)
	inos := make([]uint64, files)
	data := make([]byte, 16<<10)
	for i := range inos {
		inos[i] = must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, scaleName(i), unix.S_IFREG|0o600, 0)).Ino
		must[int](t)(v.Write(meta.Caller{}, inos[i], data, 0))
	}
	if err := v.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for i, ino := range inos {
		if i%2 == 0 { // its block dies
			must[int](t)(v.Write(meta.Caller{}, ino, data, 0))
		}
		mode := uint32(0o640)
		must[meta.Attr](t)(v.SetAttr(meta.Caller{}, ino, meta.SetAttr{Mode: &mode}))
	}
	var took []time.Duration
	done := make(chan error, 1)
	begin := time.Now()
	go func() { done <- v.Checkpoint() }()
	var err error
	for i, running := 0, true; running; i++ {
		ino := inos[i*7919%files]
		t0 := time.Now()
		must[meta.Attr](t)(v.GetAttr(ino))
		t1 := time.Now()
		must[int](t)(v.Write(meta.Caller{}, ino, data[:100], 50))
		took = append(took, t1.Sub(t0), time.Since(t1))
		select {
		case err = <-done:
			running = false
		default:
		}
	}
	whole := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(took)
	at := func(share float64) time.Duration { return took[min(len(took)-1, int(share*float64(len(took))))] }
	t.Logf("a checkpoint of %s: %d operations, p50 %s, p99 %s, p99.9 %s, longest %s", whole, len(took), at(0.5), at(0.99), at(0.999), at(1))
	if len(took) < 100 && whole > time.Second {
		t.Errorf("only %d operations in %s", len(took), whole)
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}

// heavyUntilItWaits has a program write to a file, while no checkpoint takes it
// away, until it waits or is done; the rest is written after the test.
func heavyUntilItWaits(t *testing.T, v *meta.Volume, writes int64, write func(ino uint64, i int64) error) (written int64, wait func() error) {
	t.Helper()
	ino := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "heavy", unix.S_IFREG|0o600, 0)).Ino
	var n atomic.Int64
	done := make(chan error, 1)
	go func() {
		for i := range writes {
			if err := write(ino, i); err != nil {
				done <- err
				return
			}
			n.Add(1)
		}
		done <- nil
	}()
	for before, end := int64(-1), time.Now().Add(time.Minute); n.Load() != before; time.Sleep(300 * time.Millisecond) {
		if before = n.Load(); time.Now().After(end) {
			t.Fatal("it goes on and on")
		}
	}
	return n.Load(), func() error { return <-done }
}

// TestVolume_HeavyWriterWaitsFirst: who overwrites blocks of one file faster than
// checkpoints can take it away waits for one while others still go on.
func TestVolume_HeavyWriterWaitsFirst(t *testing.T) {
	const most = 37 << 20 // bytes, less than what makes everybody wait
	for _, c := range []struct {
		name    string
		journal int64 // bytes of one of its files, 0 = as usual
		size    int   // of a write: whole pages go to a segment
		flush   bool  // after each
	}{
		{"memory", 0, 4095, false},
		{"journal", 1 << 20, 4095, false},
		{"journal and segments", 1 << 20, 4096, false},
		{"large and flushed", 0, 256 << 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			step := max(int64(c.size), 2*4096)
			writes := min(int64(9500), 2*most/int64(c.size))
			v, cfg := volumeWithJournal(t, c.journal)
			release := v.HoldCheckpoints()
			data := make([]byte, c.size)
			written, wait := heavyUntilItWaits(t, v, writes, func(ino uint64, i int64) error {
				_, err := v.Write(meta.Caller{}, ino, data, i*step)
				if err == nil && c.flush {
					err = v.SyncFile(t.Context(), ino)
				}
				return err
			})
			others := make(chan error, 1)
			go func() {
				for i := range 50 {
					a, err := v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint(i), unix.S_IFREG|0o600, 0)
					if err == nil {
						_, err = v.Write(meta.Caller{}, a.Ino, make([]byte, 4096), 0)
					}
					if err == nil && i%2 == 0 {
						err = v.Unlink(meta.Caller{}, meta.RootIno, fmt.Sprint(i))
					}
					if err != nil {
						others <- err
						return
					}
				}
				others <- nil
			}()
			select {
			case err := <-others:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(30 * time.Second):
				t.Error("others wait, too")
			}
			if written == writes {
				t.Error("the heavy writer did not wait")
			} else {
				t.Logf("it waited after %d of %d writes", written, writes)
			}
			release()
			if err := wait(); err != nil {
				t.Error(err)
			}
			if err := v.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkClean(t, cfg)
		})
	}
}
