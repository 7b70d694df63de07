package meta_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// fileCalls is a store that notes what is done to its segments.
type fileCalls struct {
	store.Store
	cached bool // the host has everything in its memory
	full   bool // it has no room
	calls  []fileCall
	onRead func() // called before each read

	unpunched, mostUnpunched atomic.Int64 // bytes written since the last hole, which the background may make
}

type fileCall struct {
	kind   string
	name   string
	off, n int64
}

type notedFile struct {
	store.File
	to   *fileCalls
	name string
}

func (c *fileCalls) note(f store.File, err error, name string) (store.File, error) {
	if err == nil && strings.HasPrefix(name, "segments/") {
		f = notedFile{f, c, name}
	}
	return f, err
}

func (c *fileCalls) Create(name string, size int64) (store.File, error) {
	f, err := c.Store.Create(name, size)
	return c.note(f, err, name)
}

func (c *fileCalls) Open(name string) (store.File, error) {
	f, err := c.Store.Open(name)
	return c.note(f, err, name)
}

func (f notedFile) add(kind string, off, n int64) {
	f.to.calls = append(f.to.calls, fileCall{kind, f.name, off, n})
}

func (f notedFile) WriteAt(p []byte, off int64) (int, error) {
	f.add("write", off, int64(len(p)))
	if n := f.to.unpunched.Add(int64(len(p))); n > f.to.mostUnpunched.Load() {
		f.to.mostUnpunched.Store(n)
	}
	return f.File.WriteAt(p, off)
}

func (f notedFile) ReadAt(p []byte, off int64) (int, error) {
	f.add("read", off, int64(len(p)))
	if f.to.onRead != nil {
		f.to.onRead()
	}
	return f.File.ReadAt(p, off)
}

func (f notedFile) Cached(off, n int64) bool { return f.to.cached }

func (c *fileCalls) Free() (int64, error) {
	if c.full {
		return 0, nil
	}
	return c.Store.Free()
}

// written is how many bytes were written to segments.
func (c *fileCalls) written() (n int64) {
	for _, call := range c.calls {
		if call.kind == "write" {
			n += call.n
		}
	}
	return n
}

func (f notedFile) PunchHole(off, length int64) error {
	f.to.unpunched.Store(0)
	return f.File.PunchHole(off, length)
}

func (f notedFile) Prefetch(off, n int64) { f.add("prefetch", off, n) }

// notedVolume is a volume whose background has nothing to do for a second, with a
// file of 4 MiB.
func notedVolume(t *testing.T) (*meta.Volume, *fileCalls, uint64) {
	t.Helper()
	calls := &fileCalls{Store: must[*store.Dir](t)(store.OpenDir(t.TempDir()))}
	cfg := meta.Config{Store: calls, Key: crypto.NewKey()}
	if err := meta.Create(t.Context(), cfg, meta.Params{Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])}); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, cfg)
	v.OnlyAskedFor()
	release := v.HoldCheckpoints()
	t.Cleanup(func() {
		release()
		if err := v.Close(t.Context()); err != nil {
			t.Error(err)
		}
		checkClean(t, cfg)
	})
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "f", unix.S_IFREG|0o600, 0))
	for i := range int64(4) {
		must[int](t)(v.Write(meta.Caller{}, a.Ino, make([]byte, 1<<20), i<<20))
	}
	return v, calls, a.Ino
}

// TestVolume_SmallWrites_JournalOrSegment: where the data of small writes goes.
func TestVolume_SmallWrites_JournalOrSegment(t *testing.T) {
	v, calls, ino := notedVolume(t)
	// wrote is how many bytes of a write went to a segment.
	wrote := func(off int64, n int) int64 {
		t.Helper()
		calls.calls = nil
		must[int](t)(v.Write(meta.Caller{}, ino, bytes.Repeat([]byte{byte(off >> 12)}, n), off))
		return calls.written()
	}
	flush := func() {
		t.Helper()
		if err := v.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	flush()
	// 128 writes of 8 KiB are 1 MiB: these go to the journal, all others not.
	for i := range int64(256) {
		want := int64(0)
		if i >= 128 {
			want = 8 << 10
		}
		if got := wrote(i*83%256*8<<10, 8<<10); got != want {
			t.Fatalf("write %d: %d bytes went to a segment, want %d", i, got, want)
		}
	}
	wrote(0, 1)
	for _, c := range []struct {
		what string
		off  int64
		n    int
		want int64
	}{
		{"a page somewhere", 40 << 10, 4 << 10, 4 << 10},
		{"the page behind it", 44 << 10, 4 << 10, 0},
		{"three pages somewhere", 80 << 10, 12 << 10, 12 << 10},
		{"three pages behind them", 92 << 10, 12 << 10, 0},
		{"two blocks", 128 << 10, 16 << 10, 16 << 10},
		{"two blocks behind them", 144 << 10, 16 << 10, 16 << 10},
		{"less than a page", 0, 4095, 0},
		{"pages and a rest", 8 << 10, 9 << 10, 0},
		{"beside pages", 16<<10 + 1, 8 << 10, 0},
		{"much", 24 << 10, 32 << 10, 32 << 10},
		{"much and a rest", 64<<10 + 5, 40 << 10, 36 << 10},
	} {
		if got := wrote(c.off, c.n); got != c.want {
			t.Errorf("%s: %d bytes went to a segment, want %d", c.what, got, c.want)
		}
	}
	flush()
	if got := wrote(1<<20, 8<<10); got != 0 {
		t.Errorf("after a flush %d bytes went to a segment", got)
	}
	if got := wrote(2<<20, 32<<10); got != 32<<10 {
		t.Errorf("after a flush %d bytes of a large write went to a segment", got)
	}
}

// TestVolume_LargeWrites_JournalOrSegment: where the data of large writes to a file
// goes that is flushed, by its size and what was written before.
func TestVolume_LargeWrites_JournalOrSegment(t *testing.T) {
	v, calls, ino := notedVolume(t)
	most := v.JournalMost()
	const all = -1
	for i, c := range []struct {
		what  string
		flush uint64  // the file that is flushed before
		sizes []int64 // of the writes
		want  int64   // bytes that the last one brings to segments
	}{
		{"after the writes that made the file", ino, []int64{most}, all},
		{"after as much as fits", ino, []int64{most}, 0},
		{"again", ino, []int64{most}, 0},
		{"a page too much", ino, []int64{most + 4096}, all},
		{"after too much", ino, []int64{64 << 10}, all},
		{"after little", ino, []int64{64 << 10}, 0},
		{"several that fit", ino, []int64{32 << 10, 64 << 10, 96 << 10}, 0},
		{"several that do not", ino, []int64{96 << 10, 96 << 10, 96 << 10}, all},
		{"after several that did not", ino, []int64{32 << 10}, all},
		{"not flushed, since the last", 0, []int64{64 << 10}, all},
		{"flushed", ino, []int64{64 << 10}, 0},
		{"another file flushed", ino + 1, []int64{most - 60<<10}, all},
	} {
		if c.flush != 0 {
			if err := v.SyncFile(t.Context(), c.flush); err != nil {
				t.Fatal(err)
			}
		}
		var data []byte
		for _, n := range c.sizes {
			data = bytes.Repeat([]byte{'a' + byte(i)}, int(n))
			calls.calls = nil
			must[int](t)(v.Write(meta.Caller{}, ino, data, 0))
		}
		want := c.want
		if want == all {
			want = int64(len(data))
		}
		if got := calls.written(); got != want {
			t.Errorf("%s: %d bytes went to a segment, want %d", c.what, got, want)
		}
		got := make([]byte, len(data))
		if must[int](t)(v.Read(ino, got, 0)); !bytes.Equal(got, data) {
			t.Errorf("%s: read something else", c.what)
		}
	}
}

// TestVolume_FirstWrite_JournalOrSegment: where the data of new files goes, and that
// nothing but zeros is behind it.
func TestVolume_FirstWrite_JournalOrSegment(t *testing.T) {
	v, calls, _ := notedVolume(t)
	files := 0
	// wrote is how many bytes a new file brought to segments that got n at off, whose
	// size had been set to size before. It is read and grows, and is read again.
	wrote := func(n, off, size int) int64 {
		t.Helper()
		files++
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint(files), unix.S_IFREG|0o600, 0))
		if size > 0 {
			must[meta.Attr](t)(v.SetAttr(meta.Caller{}, a.Ino, meta.SetAttr{Size: new(uint64(size))}))
		}
		data := bytes.Repeat([]byte{'x'}, n)
		calls.calls = nil
		must[int](t)(v.Write(meta.Caller{}, a.Ino, data, int64(off)))
		written := calls.written()
		want := append(make([]byte, off), data...)
		want = append(want, make([]byte, max(0, size-len(want)))...)
		for range 2 {
			got := make([]byte, len(want)+100)
			if n := must[int](t)(v.Read(a.Ino, got, 0)); !bytes.Equal(got[:n], want) {
				t.Errorf("%d bytes at %d of a file of %d bytes: read something else", n, off, size)
			}
			must[int](t)(v.Write(meta.Caller{}, a.Ino, []byte("y"), int64(len(want)+9999)))
			want = append(append(want, make([]byte, 9999)...), 'y')
		}
		return written
	}
	if err := v.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := wrote(5000, 0, 0); got != 0 {
		t.Errorf("after a flush %d bytes of a small file went to a segment", got)
	}
	if got := wrote(40001, 0, 0); got != 40<<10 {
		t.Errorf("after a flush %d bytes of a large file went to a segment", got)
	}
	v.FlushedLongAgo()
	for _, c := range []struct {
		n, off, size int
		want         int64
	}{
		{1, 0, 0, 0},
		{2048, 0, 0, 0}, // stays in the index for good
		{2049, 0, 0, 4 << 10},
		{4096, 0, 0, 4 << 10},
		{5000, 0, 0, 8 << 10},
		{8192, 0, 0, 8 << 10},
		{10240, 0, 0, 0}, // in sectors: a buffer, and more will follow
		{12288, 0, 0, 12 << 10},
		{31000, 0, 0, 32 << 10},
		{40000, 0, 0, 40 << 10},
		{40448, 0, 0, 36 << 10}, // in sectors, but large
		{1<<20 - 1, 0, 0, 1 << 20},
		{5000, 4096, 0, 0},
		{5000, 0, 3000, 8 << 10},
		{5000, 0, 100000, 8 << 10},
	} {
		if got := wrote(c.n, c.off, c.size); got != c.want {
			t.Errorf("%d bytes at %d of an empty file of size %d: %d bytes went to a segment, want %d", c.n, c.off, c.size, got, c.want)
		}
	}
}

// TestVolume_Read_HostIsToldFirst: before a read waits for the disk, the host has
// been told of all that it will read; if the host has everything, it is told nothing.
func TestVolume_Read_HostIsToldFirst(t *testing.T) {
	v, calls, ino := notedVolume(t)
	got := make([]byte, 1<<20)
	calls.calls = nil
	must[int](t)(v.Read(ino, got, 1<<20))
	if n := slices.IndexFunc(calls.calls, func(c fileCall) bool { return c.kind == "read" }); n != 1 {
		t.Errorf("of what lies in one piece, the host was told %d times", n)
	}
	v.FlushedLongAgo()
	want := make([]byte, 4<<20)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		off := rnd.IntN(512) * 8 << 10
		copy(want[off:], bytes.Repeat([]byte(fmt.Sprintf("%08x", rnd.Uint32())), 1<<10))
		must[int](t)(v.Write(meta.Caller{}, ino, want[off:off+8<<10], int64(off)))
	}
	for _, off := range []int64{0, 1 << 20, 5 << 18, 3 << 20, 4<<20 - 8<<10} {
		for _, calls.cached = range []bool{false, true} {
			calls.calls = nil
			n := must[int](t)(v.Read(ino, got, off))
			if !bytes.Equal(got[:n], want[off:off+int64(n)]) {
				t.Fatalf("at %d: read something else", off)
			}
			told := map[string]bool{} // by 4 KiB
			reads := 0
			for i, c := range calls.calls {
				switch {
				case calls.cached && c.kind == "read":
					continue
				case calls.cached:
					t.Fatalf("at %d, all cached: %v", off, c)
				case c.kind == "prefetch" && reads > 0:
					t.Fatalf("at %d, call %d: told of %v after the first read", off, i, c)
				}
				for at := c.off; at < c.off+c.n; at += 4096 {
					place := fmt.Sprint(c.name, at)
					if c.kind == "prefetch" {
						told[place] = true
					} else if !told[place] {
						t.Fatalf("at %d, call %d: %v of what was not told", off, i, c)
					}
				}
				if c.kind == "read" {
					reads++
				}
			}
			if !calls.cached && reads < n>>20*100 {
				t.Errorf("at %d: %d reads, so the file is not in pieces", off, reads)
			}
		}
	}
}

// TestAround: who reads a little of a large file comes by hardly ever again.
func TestAround(t *testing.T) {
	const gib = 1 << 30 / 4096 // pages
	for _, c := range []struct {
		pages uint64
		n     int
		want  int64
	}{
		{1, 4096, 32 << 10}, {gib, 4096, 32 << 10}, {gib + 1, 4096, 4096},
		{gib + 1, 128<<10 - 1, 4096}, {gib + 1, 128 << 10, 32 << 10}, {1000 * gib, 1 << 20, 32 << 10},
	} {
		if got := meta.Around(c.pages, c.n); got != c.want {
			t.Errorf("a read of %d bytes of %d pages fetches %d around, want %d", c.n, c.pages, got, c.want)
		}
	}
}

// TestVolume_Read_Strided: of a file that is read in wide steps nothing but what is
// asked for is fetched, from the third step on.
func TestVolume_Read_Strided(t *testing.T) {
	v, calls, ino := notedVolume(t)
	// around reports which of the reads at these offsets fetched what is around them.
	around := func(offs ...int64) (did []bool) {
		t.Helper()
		for _, off := range offs {
			calls.calls = nil
			must[int](t)(v.Read(ino, make([]byte, 4096), off<<10))
			did = append(did, slices.ContainsFunc(calls.calls, func(c fileCall) bool { return c.kind == "prefetch" }))
		}
		return did
	}
	for _, c := range []struct {
		what string
		offs []int64 // KiB
		want []bool
	}{
		{"forward", []int64{0, 64, 128, 192, 256}, []bool{true, true, false, false, false}},
		{"backward", []int64{1024, 900, 776, 652}, []bool{true, true, false, false}},
		{"narrow", []int64{2048, 2064, 2080, 2096}, []bool{true, true, true, true}},
		{"at random", []int64{3000, 100, 1700, 60, 2500}, []bool{true, true, true, true, true}},
	} {
		if got := around(c.offs...); !slices.Equal(got, c.want) {
			t.Errorf("%s: fetched what is around %v, want %v", c.what, got, c.want)
		}
	}
}

// TestVolume_Read_OneAfterTheOther: who reads a file that lies in pieces in steps as
// wide as what is read, and so all of it, has what is around them fetched.
func TestVolume_Read_OneAfterTheOther(t *testing.T) {
	v, calls, ino := notedVolume(t)
	v.FlushedLongAgo()
	for i := range int64(512) {
		must[int](t)(v.Write(meta.Caller{}, ino, make([]byte, 8<<10), i*83%512*8<<10))
	}
	for off := int64(0); off < 512<<10; off += 64 << 10 {
		calls.calls = nil
		must[int](t)(v.Read(ino, make([]byte, 64<<10), off))
		told := int64(0)
		for _, c := range calls.calls {
			if c.kind == "prefetch" {
				told += c.n
			}
		}
		if told < 8*32<<10 {
			t.Errorf("at %d: the host was told of %d KiB", off>>10, told>>10)
		}
	}
}
