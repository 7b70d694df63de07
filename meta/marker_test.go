package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// A flush between the write of a block and its operation takes the block with
// it and leaves the next flush nothing to do. That one must have a marker all
// the same: the block may be dead and punched when recovery looks for it.
func TestVolume_FlushBeforeCommit(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	cfg := format(t, rec)
	v := openVolume(t, cfg)
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "file", unix.S_IFREG|0o600, 0))
	written := make(chan error)
	err := v.FlushHeld(func() {
		go func() {
			// Not at 0: for a file's first write its inode is looked at, and the lock is held.
			_, err := v.Write(meta.Caller{}, a.Ino, bytes.Repeat([]byte{7}, 64<<10), 64<<10)
			written <- err
		}()
		for v.DirtySegments() == 0 {
			time.Sleep(time.Millisecond)
		}
	})
	if err = errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Unlink(meta.Caller{}, meta.RootIno, "file"), v.Forget(a.Ino)); err != nil {
		t.Fatal(err)
	}
	must[meta.Attr](t)(v.Mkdir(meta.Caller{}, meta.RootIno, "later", 0o700))
	if err := v.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	v.ReclaimSynced()
	if err := v.Abandon(); err != nil {
		t.Fatal(err)
	}
	crashed := must[*store.Recorder](t)(rec.State(rec.Len(), func(e store.Event) bool { return e.Kind == store.EventPunch }))
	defer crashed.Close()
	cfg.Store = crashed
	v = openVolume(t, cfg)
	defer v.Abandon()
	must[meta.Attr](t)(v.Lookup(meta.RootIno, "later"))
}

// A marker can outlive the operation it speaks of, when it is the first record
// of the next journal file. It says nothing about another operation that gets
// the number in the volume's next life.
func TestVolume_MarkerOfLostHistory(t *testing.T) {
	hit := false
	for fill := range page / 64 {
		dir := shm(t)
		rec := must[*store.Recorder](t)(store.NewRecorder(dir))
		cfg := format(t, rec)
		v := openVolume(t, cfg)
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "file", unix.S_IFREG|0o600, 0))
		// Up to the last pages of the first journal file, then in steps of a
		// record's alignment. Attributes do not move at a checkpoint.
		put := func(size int) {
			if err := v.SetXattr(meta.Caller{}, a.Ino, "user.fill", make([]byte, size), 0); err != nil {
				t.Fatal(err)
			}
		}
		for range 57 {
			put(page)
		}
		put(2500)
		put(64*fill + 1)
		if err := v.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		last := rec.Len()
		must[int](t)(v.Write(meta.Caller{}, a.Ino, bytes.Repeat([]byte{1}, 64<<10), 1<<20))
		if err := errors.Join(v.Sync(context.Background()), v.Abandon()); err != nil {
			t.Fatal(err)
		}
		// The host crashes during that flush, and of the journal only files
		// other than the first one reach the disk.
		events := rec.Events()
		end := last
		for ; end < len(events); end++ {
			if events[end].Kind == store.EventSync && events[end].Name == "journal/00" {
				break
			}
		}
		first := must[*store.Recorder](t)(rec.State(end, func(e store.Event) bool { return e.Name != "journal/00" }))
		var before, after bool // the operation came into the first file, the marker into the next
		for _, e := range events[last:end] {
			before = before || e.Kind == store.EventWrite && e.Name == "journal/00"
			after = after || e.Kind == store.EventWrite && e.Name == "journal/01"
		}
		hit = hit || before && after
		if err := secondLife(t, cfg, first); err != nil {
			t.Errorf("fill %d: %v", fill, err)
		}
		first.Close()
		rec.Close()
	}
	if !hit {
		t.Error("no marker came into a file of its own")
	}
}

// secondLife writes blocks whose operation reaches the disk without them. They
// must not be there after another crash.
func secondLife(t *testing.T, cfg meta.Config, rec *store.Recorder) error {
	t.Helper()
	cfg.Store = rec
	v := openVolume(t, cfg)
	a, err := v.Lookup(meta.RootIno, "file")
	if err != nil {
		return err
	}
	if _, err := v.Write(meta.Caller{}, a.Ino, bytes.Repeat([]byte{2}, 64<<10), 1<<20); err != nil {
		return err
	}
	if err := v.Abandon(); err != nil {
		return err
	}
	crashed, err := rec.State(rec.Len(), func(e store.Event) bool { return !strings.HasPrefix(e.Name, "segments/") })
	if err != nil {
		return err
	}
	defer crashed.Close()
	cfg.Store = crashed
	v = openVolume(t, cfg)
	defer v.Abandon()
	buf := make([]byte, 64<<10)
	if _, err := v.Read(a.Ino, buf, 1<<20); err != nil {
		return fmt.Errorf("the operation is there without its data: %w", err)
	}
	return nil
}

// A segment with nothing alive is removed only when nothing can come alive
// again: a crash of the host may take the operations that freed its last blocks.
func TestVolume_SegmentOfUnsyncedForget(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	cfg := format(t, rec)
	v := openVolume(t, cfg)
	var inos [2]uint64
	for i, name := range []string{"a", "b"} {
		inos[i] = must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, name, unix.S_IFREG|0o600, 0)).Ino
		must[int](t)(v.Write(meta.Caller{}, inos[i], bytes.Repeat([]byte{7}, 64<<10), 0))
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	v = openVolume(t, cfg) // which writes to another segment
	err := errors.Join(v.Unlink(meta.Caller{}, meta.RootIno, "a"), v.Forget(inos[0]), v.Sync(context.Background()),
		v.Unlink(meta.Caller{}, meta.RootIno, "b"), v.Forget(inos[1]))
	if err != nil {
		t.Fatal(err)
	}
	v.ReclaimSynced()
	if err := v.Abandon(); err != nil {
		t.Fatal(err)
	}
	crashed := must[*store.Recorder](t)(rec.State(rec.Len(), func(e store.Event) bool { return e.Kind == store.EventRemove || e.Kind == store.EventPunch }))
	defer crashed.Close()
	cfg.Store = crashed
	v = openVolume(t, cfg)
	defer v.Abandon()
	b := must[meta.Attr](t)(v.Lookup(meta.RootIno, "b"))
	must[int](t)(v.Read(b.Ino, make([]byte, 64<<10), 0))
}

// A segment that a dead process removed is still named by the journal, whose
// operations free its blocks once more. Its number must not be given again:
// what is written under it would be punched.
func TestVolume_NumberOfRemovedSegment(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	cfg := format(t, rec)
	v := openVolume(t, cfg)
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "file", unix.S_IFREG|0o600, 0))
	must[int](t)(v.Write(meta.Caller{}, a.Ino, bytes.Repeat([]byte{7}, 64<<10), 0))
	err := errors.Join(v.Unlink(meta.Caller{}, meta.RootIno, "file"), v.Forget(a.Ino), v.Sync(context.Background()), v.Abandon())
	if err != nil {
		t.Fatal(err)
	}
	v = openVolume(t, cfg) // which writes nothing
	err = v.Sync(context.Background())
	v.ReclaimSynced()
	if err = errors.Join(err, v.Abandon()); err != nil {
		t.Fatal(err)
	}
	removed := slices.IndexFunc(rec.Events(), func(e store.Event) bool {
		return e.Kind == store.EventRemove && strings.HasPrefix(e.Name, "segments/")
	})
	if removed < 0 {
		t.Fatal("the dead segment is not removed")
	}
	killed := must[*store.Recorder](t)(rec.Killed(removed + 1))
	defer killed.Close()
	cfg.Store = killed
	v = openVolume(t, cfg)
	defer v.Abandon()
	b := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "another", unix.S_IFREG|0o600, 0))
	must[int](t)(v.Write(meta.Caller{}, b.Ino, bytes.Repeat([]byte{8}, 64<<10), 0))
	must[int](t)(v.Read(b.Ino, make([]byte, 64<<10), 0))
	for _, e := range killed.Events() {
		if e.Kind == store.EventCreate && e.Name == rec.Events()[removed].Name {
			t.Errorf("%s is made again", e.Name)
		}
	}
}
