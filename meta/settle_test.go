package meta_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// settleScript is two files that are durable only through the journal when it
// has been run.
func settleScript(t *testing.T, v *meta.Volume) *model {
	t.Helper()
	m := newModel()
	for i, o := range []op{
		{kind: "mknod", ino: meta.RootIno, name: "a", mode: unix.S_IFREG | 0o600},
		{kind: "mknod", ino: meta.RootIno, name: "b", mode: unix.S_IFREG | 0o600},
		{kind: "write", ino: meta.RootIno + 1, length: 40_000, seed: 1},
		{kind: "write", ino: meta.RootIno + 2, length: 100, seed: 2},
		{kind: "sync"},
	} {
		if got := o.run(v, caller(i)); got.err != nil {
			t.Fatal(o, got.err)
		}
		m, _ = o.apply(m)
	}
	return m
}

// settled opens and leaves a volume, as often as it has journal files, so that
// each that is free is overwritten. Then the host crashes, and everything must
// still be there.
func settled(cfg meta.Config, rec *store.Recorder, want string) error {
	h := &history{cfg: cfg}
	for i := range meta.InitialSlots {
		v, err := h.reopen(rec)
		if err != nil {
			return fmt.Errorf("open %d: %w", i, err)
		}
		if err := errors.Join(compare(v, want), v.Abandon()); err != nil {
			return fmt.Errorf("open %d: %w", i, err)
		}
	}
	crashed, err := rec.State(rec.Len(), nothing)
	if err != nil {
		return err
	}
	defer crashed.Close()
	v, err := h.reopen(crashed)
	if err != nil {
		return fmt.Errorf("open after the host crashed: %w", err)
	}
	if err := errors.Join(compare(v, want), v.Abandon()); err != nil {
		return fmt.Errorf("after the host crashed: %w", err)
	}
	return h.check(crashed)
}

// TestVolume_Open_IndexVisibleButNotDurable: the process dies anywhere in a
// checkpoint, above all between bbolt's meta page and its flush. The next one
// sees the new index and takes journal files for free that a crash of the host
// needs.
func TestVolume_Open_IndexVisibleButNotDurable(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	cfg := format(t, rec)
	v := openVolume(t, cfg)
	want := settleScript(t, v).dump()
	begin := rec.Len()
	if err := v.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	end := rec.Len()
	if err := v.Abandon(); err != nil {
		t.Fatal(err)
	}
	metaPages := 0
	for upto := begin; upto <= end; upto++ {
		if e := rec.Events()[upto-1]; e.Kind == store.EventWrite && e.Name == "index.db" && e.Off < 8192 {
			metaPages++
		}
		killed := must[*store.Recorder](t)(rec.Killed(upto))
		if err := settled(cfg, killed, want); err != nil {
			t.Errorf("killed at event %d of %d to %d: %v", upto, begin, end, err)
		}
		killed.Close()
	}
	if metaPages != 1 {
		t.Errorf("the checkpoint wrote %d meta pages, want 1", metaPages)
	}
}

// TestVolume_Checkpoint_EveryCallFails: every write and flush of a
// checkpoint's commit fails, with every errno. The volume either goes on, with
// everything, or stops; it never believes an index that is not durable, nor
// its own old summary when bbolt has moved on.
func TestVolume_Checkpoint_EveryCallFails(t *testing.T) {
	dir := shm(t)
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT} {
		for _, fault := range []store.Fault{{Err: errno}, {Err: errno, Lost: true}, {Err: errno, Applied: true}, {Err: errno, Short: true}} {
			for n := 0; ; n++ {
				hit, err := checkpointFails(t, dir, n, fault)
				if err != nil {
					t.Errorf("%+v at call %d on the index: %v", fault, n, err)
				}
				if !hit {
					if n < 5 {
						t.Errorf("a checkpoint makes only %d calls on the index", n)
					}
					break
				}
			}
		}
	}
}

func checkpointFails(t *testing.T, dir string, n int, fault store.Fault) (hit bool, err error) {
	rec := must[*store.Recorder](t)(store.NewRecorder(dir))
	defer rec.Close()
	cfg := format(t, rec)
	calls, armed := 0, false
	cfg.Store = store.NewFaulty(rec, func(op store.Op) *store.Fault {
		if !armed || op.Name != "index.db" {
			return nil
		}
		calls++
		if hit = hit || calls == n+1; calls == n+1 {
			return &fault
		}
		return nil
	})
	v := openVolume(t, cfg)
	m := settleScript(t, v)
	armed = true
	first := v.Checkpoint()
	armed = false
	if hit != (first != nil) {
		v.Abandon()
		return hit, fmt.Errorf("checkpoint: %w", first)
	}
	select {
	case <-v.Failed():
	default: // it goes on
		o := op{kind: "write", ino: meta.RootIno + 1, off: 4096, length: 5000, seed: 3}
		if got := o.run(v, caller(10)); got.err != nil {
			v.Abandon()
			return hit, fmt.Errorf("write after a failed checkpoint: %w", got.err)
		}
		m, _ = o.apply(m)
		second := v.Checkpoint()
		if !errors.Is(first, syscall.EIO) && second != nil {
			v.Abandon()
			return hit, fmt.Errorf("the next checkpoint: %w", second)
		}
		if err := v.Sync(context.Background()); err != nil {
			v.Abandon()
			return hit, err
		}
	}
	if err := v.Abandon(); err != nil && !errors.Is(err, meta.ErrFailed) {
		return hit, err
	}
	cfg.Store = rec
	if err := settled(cfg, rec, m.dump()); err != nil {
		return hit, err
	}
	return hit, (&history{cfg: cfg}).check(rec)
}
