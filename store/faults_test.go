package store_test

import (
	"syscall"
	"testing"

	"cmkfs/store"
)

func TestFaulty_Conformance(t *testing.T) {
	conform(t, func(t *testing.T) store.Store {
		return store.NewFaulty(newRecorder(t), func(store.Op) *store.Fault { return nil })
	})
	conform(t, func(t *testing.T) store.Store {
		return store.NewFaulty(openDir(t, t.TempDir()), func(store.Op) *store.Fault { return nil })
	})
}

// script makes every kind of call once and stops at the first error.
func script(s store.Store) error {
	if err := s.Mkdir("d"); err != nil {
		return err
	}
	f, err := s.Create("d/a", 100)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("text"), 0); err != nil {
		return err
	}
	if _, err := f.ReadAt(make([]byte, 4), 0); err != nil {
		return err
	}
	for _, call := range []func() error{
		f.Sync,
		func() error { return f.PunchHole(0, 2) },
		func() error { return f.Truncate(50) },
		func() error { _, err := f.Size(); return err },
		func() error { return s.Rename("d/a", "d/b") },
		func() error { return s.SyncDir("d") },
		func() error { _, err := s.List("d"); return err },
		func() error { _, err := s.Free(); return err },
	} {
		if err := call(); err != nil {
			return err
		}
	}
	g, err := s.Open("d/b")
	if err != nil {
		return err
	}
	g.Close()
	return s.Remove("d/b")
}

func TestFaulty_FailsEveryCall(t *testing.T) {
	for _, applied := range []bool{false, true} {
		n := 0
		for ; ; n++ {
			r := newRecorder(t)
			f := store.NewFaulty(r, store.FailNth(n, store.Fault{Err: syscall.ENOSPC, Applied: applied}))
			err := script(f)
			if r.OpenFiles() != 0 {
				t.Fatalf("call %d left a file open", n)
			}
			if err == nil {
				if f.Calls() != n {
					t.Errorf("%d calls, but number %d did not fail", f.Calls(), n)
				}
				break
			}
			wantErr(t, "script", err, syscall.ENOSPC)
			wantErr(t, "script", err, store.ErrFull)
			if f.Calls() != n+1 {
				t.Errorf("call %d failed and %d were made", n, f.Calls())
			}
		}
		if n != 14 {
			t.Errorf("%d calls were failed, want 14", n)
		}
	}
}

func TestFaulty_WhatIsApplied(t *testing.T) {
	for _, c := range []struct {
		fault store.Fault
		want  string
		n     int
	}{
		{store.Fault{Err: syscall.EIO}, "", 0},
		{store.Fault{Err: syscall.EIO, Short: true}, "te", 2},
		{store.Fault{Err: syscall.EIO, Applied: true}, "text", 0},
	} {
		r := newRecorder(t)
		f, err := store.NewFaulty(r, func(op store.Op) *store.Fault {
			if op.Call == "WriteAt" {
				return &c.fault
			}
			return nil
		}).Create("f", 0)
		must(t, err)
		n, err := f.WriteAt([]byte("text"), 0)
		wantErr(t, "WriteAt", err, syscall.EIO)
		if n != c.n {
			t.Errorf("%+v: WriteAt = %d, want %d", c.fault, n, c.n)
		}
		wantBytes(t, f, []byte(c.want))
		must(t, f.Close())

		fn := store.NewFaulty(r, store.FailNth(0, c.fault))
		wantErr(t, "Remove", fn.Remove("f"), syscall.EIO)
		if _, err := r.Open("f"); (err != nil) != c.fault.Applied {
			t.Errorf("%+v: after Remove: %v", c.fault, err)
		}
	}
}

// A failed flush is not made good by the next one, only by writing again.
func TestFaulty_LostFlush(t *testing.T) {
	r := newRecorder(t)
	s := store.NewFaulty(r, store.FailNth(3, store.Fault{Err: syscall.EIO, Lost: true}))
	f := create(t, s, "f", 0)
	must(t, s.SyncDir(""))
	write(t, f, 0, fill(1, 1024))
	wantErr(t, "Sync", f.Sync(), syscall.EIO)
	must(t, f.Sync())
	wantFile(t, r, "f", fill(1, 1024))
	wantFile(t, state(t, r, r.Len(), none), "f", nil)
	write(t, f, 0, fill(1, 512))
	// The host may have dropped from its memory what it has not on its disk.
	e, err := r.Evicted(r.Len())
	must(t, err)
	t.Cleanup(func() { e.Close() })
	wantFile(t, e, "f", fill(1, 512))
	k := killed(t, r, r.Len())
	g, err := k.Open("f")
	must(t, err)
	defer g.Close()
	must(t, g.Sync())
	wantFile(t, k, "f", fill(1, 1024))
	wantFile(t, state(t, k, k.Len(), none), "f", fill(1, 512))
}
