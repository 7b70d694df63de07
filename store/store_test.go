package store_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/store"
)

// conform is what every Store must do.
func conform(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s store.Store)
	}{
		{"CreateOpenRemove", conformNames},
		{"Rename", conformRename},
		{"ReadWrite", conformReadWrite},
		{"SparseAndTruncate", conformTruncate},
		{"PunchHole", conformPunch},
		{"RemovedStaysUsable", conformRemoved},
		{"BadNames", conformBadNames},
		{"Lock", conformLock},
		{"LocalPath", conformPath},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: err = %v, want %v", what, err, want)
	}
}

func wantList(t *testing.T, s store.Store, dir string, want ...string) {
	t.Helper()
	got, err := s.List(dir)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("List(%q) = %q, want %q", dir, got, want)
	}
}

func wantBytes(t *testing.T, f store.File, want []byte) {
	t.Helper()
	size, err := f.Size()
	must(t, err)
	got := make([]byte, size)
	if n, err := f.ReadAt(got, 0); n != len(got) || (err != nil && err != io.EOF) {
		t.Fatalf("ReadAt = %d, %v", n, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("file holds %d bytes that are not the %d wanted", len(got), len(want))
	}
}

func conformNames(t *testing.T, s store.Store) {
	_, err := s.Open("superblock")
	wantErr(t, "Open", err, store.ErrNotExist)
	wantErr(t, "Remove", s.Remove("superblock"), store.ErrNotExist)
	_, err = s.Create("journal/00", 0)
	wantErr(t, "Create without its folder", err, store.ErrNotExist)
	_, err = s.List("journal")
	wantErr(t, "List", err, store.ErrNotExist)
	wantErr(t, "SyncDir", s.SyncDir("journal"), store.ErrNotExist)
	must(t, s.Mkdir("journal"))
	must(t, s.Mkdir("journal"))
	wantList(t, s, "journal")
	for _, name := range []string{"journal/01", "journal/00", "superblock"} {
		f, err := s.Create(name, 10000)
		must(t, err)
		wantBytes(t, f, make([]byte, 10000))
		must(t, f.Sync())
		must(t, f.Close())
		_, err = s.Create(name, 0)
		wantErr(t, "Create again", err, store.ErrExist)
	}
	must(t, s.SyncDir("journal"))
	must(t, s.SyncDir(""))
	wantList(t, s, "journal", "00", "01")
	wantList(t, s, "", "superblock")
	f, err := s.Open("journal/00")
	must(t, err)
	wantBytes(t, f, make([]byte, 10000))
	must(t, f.Close())
	must(t, s.Remove("journal/00"))
	wantList(t, s, "journal", "01")
	if free, err := s.Free(); err != nil || free <= 0 {
		t.Errorf("Free = %d, %v", free, err)
	}
}

func conformRename(t *testing.T, s store.Store) {
	must(t, s.Mkdir("d"))
	write := func(name, text string) {
		f, err := s.Create(name, 0)
		must(t, err)
		_, err = f.WriteAt([]byte(text), 0)
		must(t, err)
		must(t, f.Close())
	}
	write("a", "first")
	write("d/b", "second")
	must(t, s.Rename("a", "d/b"))
	wantList(t, s, "")
	wantList(t, s, "d", "b")
	f, err := s.Open("d/b")
	must(t, err)
	defer f.Close()
	wantBytes(t, f, []byte("first"))
	wantErr(t, "Rename", s.Rename("a", "c"), store.ErrNotExist)
}

func conformReadWrite(t *testing.T, s store.Store) {
	f, err := s.Create("f", 0)
	must(t, err)
	defer f.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	for _, cut := range [][2]int{{0, 100}, {100, 512}, {512, 1024}, {1024, 1025}, {1025, 5000}, {4000, 16000}} {
		n, err := f.WriteAt(want[cut[0]:cut[1]], int64(cut[0]))
		if n != cut[1]-cut[0] || err != nil {
			t.Fatalf("WriteAt = %d, %v", n, err)
		}
	}
	wantBytes(t, f, want)
	g, err := s.Open("f")
	must(t, err)
	wantBytes(t, g, want)
	must(t, g.Close())
	p := make([]byte, 100)
	if n, err := f.ReadAt(p, 15950); n != 50 || err != io.EOF {
		t.Errorf("ReadAt over the end = %d, %v; want 50, EOF", n, err)
	}
	if n, err := f.ReadAt(p, 20000); n != 0 || err != io.EOF {
		t.Errorf("ReadAt beyond the end = %d, %v; want 0, EOF", n, err)
	}
	if _, err := g.ReadAt(p, 0); err == nil {
		t.Error("a closed file can be read")
	}
	if _, err := g.WriteAt(p, 0); err == nil {
		t.Error("a closed file can be written")
	}
	if err := g.Sync(); err == nil {
		t.Error("a closed file can be synced")
	}
}

func conformTruncate(t *testing.T, s store.Store) {
	f, err := s.Create("f", 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), 3000)
	must(t, err)
	want := make([]byte, 3001)
	want[3000] = 'x'
	wantBytes(t, f, want)
	must(t, f.Truncate(5000))
	wantBytes(t, f, append(want, make([]byte, 1999)...))
	must(t, f.Truncate(3000))
	must(t, f.Truncate(3001))
	wantBytes(t, f, make([]byte, 3001))
	must(t, f.Truncate(0))
	wantBytes(t, f, nil)
}

func conformPunch(t *testing.T, s store.Store) {
	f, err := s.Create("f", 0)
	must(t, err)
	defer f.Close()
	want := bytes.Repeat([]byte{1}, 20000)
	_, err = f.WriteAt(want, 0)
	must(t, err)
	for _, r := range [][2]int{{4096, 8192}, {100, 300}, {12000, 17000}, {19999, 20000}} {
		must(t, f.PunchHole(int64(r[0]), int64(r[1]-r[0])))
		clear(want[r[0]:r[1]])
		wantBytes(t, f, want)
	}
	must(t, f.PunchHole(19000, 1<<20))
	clear(want[19000:])
	must(t, f.PunchHole(1<<20, 4096))
	must(t, f.PunchHole(0, 0))
	wantBytes(t, f, want)
}

func conformRemoved(t *testing.T, s store.Store) {
	f, err := s.Create("f", 0)
	must(t, err)
	defer f.Close()
	must(t, s.Remove("f"))
	_, err = f.WriteAt([]byte("still here"), 0)
	must(t, err)
	wantBytes(t, f, []byte("still here"))
	must(t, f.Sync())
	g, err := s.Create("f", 0)
	must(t, err)
	defer g.Close()
	wantBytes(t, g, nil)
}

func conformBadNames(t *testing.T, s store.Store) {
	for _, name := range []string{"", "/", "/a", "a/", "a/b/c", "..", ".", "../a", "a/..", "a/.x", ".x", "a b", "a\x00", "ä", "lock"} {
		if _, err := s.Create(name, 0); err == nil {
			t.Errorf("Create(%q) was accepted", name)
		}
		if _, err := s.Open(name); err == nil {
			t.Errorf("Open(%q) was accepted", name)
		}
		if err := s.Remove(name); err == nil {
			t.Errorf("Remove(%q) was accepted", name)
		}
		if err := s.Rename("x", name); err == nil {
			t.Errorf("Rename to %q was accepted", name)
		}
	}
	for _, dir := range []string{"/", "..", ".", "a/b", ".x"} {
		if err := s.Mkdir(dir); err == nil {
			t.Errorf("Mkdir(%q) was accepted", dir)
		}
	}
}

func conformLock(t *testing.T, s store.Store) {
	l, err := s.Lock()
	must(t, err)
	_, err = s.Lock()
	wantErr(t, "second Lock", err, store.ErrLocked)
	must(t, l.Close())
	l, err = s.Lock()
	must(t, err)
	wantList(t, s, "")
	must(t, l.Close())
}

// conformPath checks that a file made behind the store's back, as bbolt makes
// its own, is a file of the store.
func conformPath(t *testing.T, s store.Store) {
	must(t, os.WriteFile(s.Path("index.new"), bytes.Repeat([]byte{1}, 9000), 0o600))
	wantList(t, s, "", "index.new")
	_, err := s.Create("index.new", 0)
	wantErr(t, "Create", err, store.ErrExist)
	must(t, s.Rename("index.new", "index.db"))
	must(t, s.SyncDir(""))
	wantList(t, s, "", "index.db")
	got, err := os.ReadFile(s.Path("index.db"))
	if err != nil || len(got) != 9000 {
		t.Errorf("the renamed file has %d bytes, %v", len(got), err)
	}
	must(t, s.Remove("index.db"))
	wantList(t, s, "")
	if _, err := os.Stat(s.Path("index.db")); !os.IsNotExist(err) {
		t.Errorf("the removed file is still there: %v", err)
	}
}

func openDir(t *testing.T, path string) *store.Dir {
	t.Helper()
	d, err := store.OpenDir(path)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDir_Conformance(t *testing.T) {
	conform(t, func(t *testing.T) store.Store { return openDir(t, t.TempDir()) })
}

func TestDir_FollowsNoLinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
	must(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "superblock")))
	must(t, os.Symlink(outside, filepath.Join(dir, "journal")))
	must(t, os.Symlink(dir, filepath.Join(outside, "link")))
	d := openDir(t, dir)
	for _, name := range []string{"superblock", "journal/secret"} {
		if _, err := d.Open(name); err == nil {
			t.Errorf("Open(%q) followed a symbolic link", name)
		}
		if _, err := d.Create(name, 0); err == nil {
			t.Errorf("Create(%q) followed a symbolic link", name)
		}
	}
	if err := d.Mkdir("journal"); err == nil {
		t.Error("Mkdir took a symbolic link for a folder")
	}
	if _, err := store.OpenDir(filepath.Join(outside, "link")); err == nil {
		t.Error("OpenDir followed a symbolic link")
	}
	_, err := store.OpenDir(filepath.Join(outside, "missing"))
	wantErr(t, "OpenDir", err, store.ErrNotExist)
}

func TestDir_ModesAndAllocation(t *testing.T) {
	dir := t.TempDir()
	d := openDir(t, dir)
	must(t, d.Mkdir("journal"))
	f, err := d.Create("journal/00", 3<<20)
	must(t, err)
	defer f.Close()
	st, err := os.Stat(filepath.Join(dir, "journal", "00"))
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("file mode %v", st.Mode())
	}
	if got := blocks(st); got < 3<<20/512 {
		t.Errorf("%d of %d blocks are allocated", got, 3<<20/512)
	}
	must(t, f.PunchHole(0, 2<<20))
	st, err = os.Stat(filepath.Join(dir, "journal", "00"))
	must(t, err)
	if got := blocks(st); got > 1<<20/512+16 {
		t.Errorf("punching 2 of 3 MiB left %d blocks", got)
	}
	st, err = os.Stat(filepath.Join(dir, "journal"))
	must(t, err)
	if st.Mode().Perm() != 0o700 {
		t.Errorf("folder mode %v", st.Mode())
	}
	entries, err := os.ReadDir(filepath.Join(dir, "journal"))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("Create left %d files", len(entries))
	}
}

// Asking what the host has cached does not make it read.
func TestDir_Cached(t *testing.T) {
	d := openDir(t, t.TempDir())
	f, err := d.Create("f", 1<<20)
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	if !f.Cached(0, 1<<20) || !f.Cached(4096, 8192) || f.Cached(0, 0) {
		t.Error("what was just written is not cached, or nothing is")
	}
	host, err := os.Open(d.Path("f"))
	must(t, err)
	defer host.Close()
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(host.Fd()), &st))
	if st.Type == unix.TMPFS_MAGIC {
		return // which is memory
	}
	must(t, unix.Fadvise(int(host.Fd()), 0, 0, unix.FADV_DONTNEED))
	for range 10 {
		if f.Cached(512<<10, 8192) {
			t.Fatal("what the host has dropped is cached")
		}
		time.Sleep(5 * time.Millisecond)
	}
	must(t, unix.Fadvise(int(host.Fd()), 0, 0, unix.FADV_RANDOM))
	_, err = host.ReadAt(make([]byte, 8192), 512<<10)
	must(t, err)
	if !f.Cached(512<<10, 8192) {
		t.Error("what was just read is not cached")
	}
	if f.Cached(256<<10, 512<<10) {
		t.Error("of what is cached in part, all is")
	}
}

// A process that died in Create leaves a hidden file; it is neither listed nor
// in the way.
func TestDir_CreateAfterInterruption(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, ".new-f"), []byte("half"), 0o600))
	d := openDir(t, dir)
	wantList(t, d, "")
	f, err := d.Create("f", 10)
	must(t, err)
	defer f.Close()
	wantBytes(t, f, make([]byte, 10))
	wantList(t, d, "", "f")
}

func TestDir_LockExcludesOtherDescriptions(t *testing.T) {
	dir := t.TempDir()
	a, b := openDir(t, dir), openDir(t, dir)
	l, err := a.Lock()
	must(t, err)
	_, err = b.Lock()
	wantErr(t, "Lock", err, store.ErrLocked)
	must(t, l.Close())
	l, err = b.Lock()
	must(t, err)
	must(t, l.Close())
}
