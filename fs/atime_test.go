package fs_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/fs"
)

// atimeOf is the access time that the kernel shows.
func atimeOf(t *testing.T, path string) time.Time {
	t.Helper()
	s := stat(t, path)
	return time.Unix(s.Atim.Unix())
}

// readWith opens a file with flags and reads a page.
func readWith(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
	must(t, err)
	defer f.Close()
	if _, err := f.Read(alignedPage()); err != nil {
		t.Fatal(err)
	}
}

// dropPages has the kernel forget the pages of a file.
func dropPages(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// atimeTree makes a file, a directory and a link whose access times are one
// second before their other ones, so that the next read changes them by any rule
// but noatime.
func atimeTree(t *testing.T, dir string) (file, sub, link string) {
	t.Helper()
	file, sub, link = filepath.Join(dir, "file"), filepath.Join(dir, "sub"), filepath.Join(dir, "link")
	must(t, os.WriteFile(file, make([]byte, 8192), 0o644))
	must(t, os.MkdirAll(filepath.Join(sub, "entry"), 0o755))
	must(t, os.Symlink("file", link))
	dropPages(t, file)
	return file, sub, link
}

// age sets the access time of a path a while back.
func age(t *testing.T, path string, d time.Duration) time.Time {
	t.Helper()
	at := time.Now().Add(-d)
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), {Nsec: unix.UTIME_OMIT}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
	return at
}

// TestAccessTimes reads on mounts with each option, in each cache mode.
func TestAccessTimes(t *testing.T) {
	for _, m := range modes {
		for _, options := range [][]string{nil, {"relatime"}, {"strictatime"}, {"noatime"}, {"nodiratime"}, {"strictatime", "nodiratime"}} {
			name := m.name
			for _, o := range options {
				name += " " + o
			}
			t.Run(name, func(t *testing.T) {
				cfg := m.cfg
				cfg.Options = options
				testAccessTimes(t, newRig(t, realVolume(t), cfg).dir, options)
			})
		}
	}
}

func testAccessTimes(t *testing.T, dir string, options []string) {
	has := func(o string) bool {
		for _, x := range options {
			if x == o {
				return true
			}
		}
		return false
	}
	file, sub, link := atimeTree(t, dir)
	// changed does something and compares what it did to an access time that was
	// so old before.
	changed := func(what, path string, old time.Duration, do func(), want bool) {
		t.Helper()
		was := age(t, path, old)
		do()
		if got := !atimeOf(t, path).Equal(was); got != want {
			t.Errorf("%s: access time changed: %v, want %v", what, got, want)
		}
	}
	direct := func() { readWith(t, file, unix.O_DIRECT) }
	list := func() {
		if _, err := os.ReadDir(sub); err != nil {
			t.Fatal(err)
		}
	}
	follow := func() {
		if _, err := os.Readlink(link); err != nil {
			t.Fatal(err)
		}
	}
	files := !has("noatime")
	dirs := files && !has("nodiratime")
	changed("a read", file, time.Hour, direct, files)
	changed("a list", sub, time.Hour, list, dirs)
	changed("a link", link, time.Hour, follow, files)
	changed("a read with O_NOATIME", file, time.Hour, func() { readWith(t, file, unix.O_DIRECT|unix.O_NOATIME) }, false)
	changed("a stat", file, time.Hour, func() { stat(t, file) }, false)

	// Later than the last change, and within a day: relatime leaves it.
	was := age(t, file, -time.Hour)
	direct()
	if got := atimeOf(t, file); got.Equal(was) == has("strictatime") {
		t.Errorf("a read of a file read before: access time %v, was %v", got, was)
	}

	// The kernel does not tell of what it reads in its own cache.
	dropPages(t, file)
	changed("a read into the cache", file, time.Hour, func() { readWith(t, file, 0) }, files)
	changed("a read from the cache", file, time.Hour, func() { readWith(t, file, 0) }, false)
	dropPages(t, file)
	changed("a mapping", file, time.Hour, func() {
		f, err := os.Open(file)
		must(t, err)
		defer f.Close()
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		must(t, err)
		if m[0] != 0 {
			t.Error("the file is not zero")
		}
		must(t, unix.Munmap(m))
	}, files)
}

// TestAccessTimes_NextWorker looks at access times after the worker has exited
// in order, and on a read-only mount.
func TestAccessTimes_NextWorker(t *testing.T) {
	volume := realVolume(t)
	t.Run("suspended", func(t *testing.T) {
		r := newRig(t, volume, fs.MountConfig{AllowOther: true})
		file, _, _ := atimeTree(t, r.dir)
		was := age(t, file, time.Hour)
		readWith(t, file, unix.O_DIRECT)
		now := atimeOf(t, file)
		if now.Equal(was) {
			t.Fatal("the access time did not change")
		}
		r.suspend(5*time.Second, unix.ENOKEY)
		r.startWorker()
		if got := atimeOf(t, file); !got.Equal(now) {
			t.Errorf("access time with the next worker: %v, want %v", got, now)
		}
		age(t, file, time.Hour)
	})
	t.Run("read-only", func(t *testing.T) {
		r := newRig(t, volume, fs.MountConfig{AllowOther: true, ReadOnly: true, Options: []string{"strictatime"}})
		was := atimeOf(t, r.path("file"))
		readWith(t, r.path("file"), unix.O_DIRECT)
		if got := atimeOf(t, r.path("file")); !got.Equal(was) {
			t.Errorf("access time: %v, was %v", got, was)
		}
	})
}
