package meta_test

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// accessRig is a volume whose clock the test sets, with a file, a directory and
// a symbolic link, all made at its begin.
type accessRig struct {
	t    *testing.T
	open func() *meta.Volume
	v    *meta.Volume
	now  time.Time

	file, dir, link uint64
}

func newAccessRig(t *testing.T, p meta.AccessTimes) *accessRig {
	r := &accessRig{t: t, now: time.Unix(1_000_000_000, 0)}
	cfg, _ := testVolume(t, 0)
	cfg.Now = func() time.Time { return r.now }
	r.open = func() *meta.Volume { return must[*meta.Volume](t)(meta.Open(context.Background(), cfg)) }
	r.v = r.open()
	r.v.SetAccessTimes(p)
	r.file = must[meta.Attr](t)(r.v.Mknod(meta.Caller{}, meta.RootIno, "file", unix.S_IFREG|0o644, 0)).Ino
	must[int](t)(r.v.Write(meta.Caller{}, r.file, []byte("content"), 0))
	r.dir = must[meta.Attr](t)(r.v.Mkdir(meta.Caller{}, meta.RootIno, "dir", 0o755)).Ino
	r.link = must[meta.Attr](t)(r.v.Symlink(meta.Caller{}, meta.RootIno, "link", "target")).Ino
	t.Cleanup(func() {
		if err := r.v.Close(context.Background()); err != nil {
			t.Error(err)
		}
		findings, err := meta.Check(context.Background(), cfg, meta.CheckOptions{})
		if err != nil || len(findings) > 0 {
			t.Errorf("check: %v, %v", findings, err)
		}
	})
	return r
}

// read reads file, directory and link after a pause.
func (r *accessRig) read(pause time.Duration) {
	r.t.Helper()
	r.now = r.now.Add(pause)
	must[int](r.t)(r.v.Read(r.file, make([]byte, 3), 0))
	for _, ino := range []uint64{r.dir, r.link} {
		if err := r.v.Accessed(ino); err != nil {
			r.t.Fatal(err)
		}
	}
}

// want compares the access times, in seconds after the rig's begin.
func (r *accessRig) want(what string, file, dir, link int64) {
	r.t.Helper()
	for _, w := range []struct {
		name string
		ino  uint64
		want int64
	}{{"file", r.file, file}, {"dir", r.dir, dir}, {"link", r.link, link}} {
		a := must[meta.Attr](r.t)(r.v.GetAttr(w.ino))
		if got := a.Atime.Unix() - 1_000_000_000; got != w.want {
			r.t.Errorf("%s: access time of %s is %d, want %d", what, w.name, got, w.want)
		}
	}
}

func TestVolume_AccessTimes_Rules(t *testing.T) {
	const day = 24 * 60 * 60
	t.Run("never", func(t *testing.T) {
		r := newAccessRig(t, meta.AccessTimes{})
		r.read(2 * day * time.Second)
		r.want("after two days", 0, 0, 0)
	})
	t.Run("relative", func(t *testing.T) {
		r := newAccessRig(t, meta.AccessTimes{Files: meta.AccessRelative, Dirs: meta.AccessRelative})
		r.read(time.Second)
		r.want("first read", 1, 1, 1)
		r.read(time.Second)
		r.want("second read", 1, 1, 1)
		r.now = r.now.Add(time.Second)
		must[int](t)(r.v.Write(meta.Caller{}, r.file, []byte("new"), 0))
		r.read(time.Second)
		r.want("after a write", 4, 1, 1)
		mode := uint32(0o700)
		must[meta.Attr](t)(r.v.SetAttr(meta.Caller{}, r.dir, meta.SetAttr{Mode: &mode}))
		r.read(time.Second)
		r.want("after a chmod", 4, 5, 1)
		r.read((day - 2) * time.Second)
		r.want("nearly a day later", 4, 5, 3+day)
		r.read(time.Second)
		r.want("a day later", 4+day, 5, 3+day)
	})
	t.Run("always, but no directories", func(t *testing.T) {
		r := newAccessRig(t, meta.AccessTimes{Files: meta.AccessAlways})
		r.read(time.Second)
		r.read(time.Second)
		r.want("second read", 2, 0, 2)
	})
	t.Run("peek", func(t *testing.T) {
		r := newAccessRig(t, meta.AccessTimes{Files: meta.AccessAlways, Dirs: meta.AccessAlways})
		r.now = r.now.Add(time.Second)
		must[int](t)(r.v.Peek(r.file, make([]byte, 3), 0))
		r.want("after a peek", 0, 0, 0)
	})
}

// TestVolume_AccessTimes_Saved follows access times through changes of their
// inode, the end of the process, and a crash of it.
func TestVolume_AccessTimes_Saved(t *testing.T) {
	always := meta.AccessTimes{Files: meta.AccessAlways, Dirs: meta.AccessAlways}
	r := newAccessRig(t, always)
	reopen := func(end func() error) {
		t.Helper()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		r.v = r.open()
		r.v.SetAccessTimes(always)
	}
	abandon := func() error { return r.v.Abandon() }
	closeVolume := func() error { return r.v.Close(context.Background()) }

	r.read(time.Second)
	set := time.Unix(1_000_000_500, 0)
	must[meta.Attr](t)(r.v.SetAttr(meta.Caller{}, r.file, meta.SetAttr{Atime: &set}))
	mode := uint32(0o700)
	must[meta.Attr](t)(r.v.SetAttr(meta.Caller{}, r.dir, meta.SetAttr{Mode: &mode}))
	r.want("set by utimes, kept by chmod", 500, 1, 1)
	reopen(abandon)
	r.want("crash: only what was saved with a change", 500, 1, 0)
	r.read(time.Second)
	reopen(closeVolume)
	r.want("closed", 2, 2, 2)
	r.read(time.Second)
	if err := r.v.SaveAccessTimes(); err != nil {
		t.Fatal(err)
	}
	reopen(abandon)
	r.want("saved, then crashed", 3, 3, 3)

	// What was read and is gone is not missed.
	r.read(time.Second)
	if err := r.v.Unlink(meta.Caller{}, meta.RootIno, "file"); err != nil {
		t.Fatal(err)
	}
	if err := r.v.Forget(r.file); err != nil {
		t.Fatal(err)
	}
	if err := r.v.SaveAccessTimes(); err != nil {
		t.Fatal(err)
	}
}

// TestVolume_AccessTimes_Many reads more files than may be pending: the
// background saves them, in several operations.
func TestVolume_AccessTimes_Many(t *testing.T) {
	r := newAccessRig(t, meta.AccessTimes{Files: meta.AccessAlways})
	const files = 9000
	inos := make([]uint64, files)
	for i := range inos {
		inos[i] = must[meta.Attr](t)(r.v.Tmpfile(meta.Caller{}, meta.RootIno, 0o600)).Ino
	}
	r.now = r.now.Add(time.Second)
	for _, ino := range inos {
		must[int](t)(r.v.Read(ino, make([]byte, 1), 0))
	}
	for end := time.Now().Add(time.Minute); r.v.PendingAccessTimes() > files-meta.AccessPending; {
		if time.Now().After(end) {
			t.Fatalf("%d access times are pending", r.v.PendingAccessTimes())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := r.v.Sync(context.Background()); err != nil { // what the background has only queued
		t.Fatal(err)
	}
	if err := r.v.Abandon(); err != nil {
		t.Fatal(err)
	}
	r.v = r.open()
	saved := 0
	for _, ino := range inos {
		if must[meta.Attr](t)(r.v.GetAttr(ino)).Atime.Unix() == 1_000_000_001 {
			saved++
		}
	}
	if saved < meta.AccessPending {
		t.Errorf("%d access times were saved, want %d", saved, meta.AccessPending)
	}
}
