package store_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"cmkfs/store"
)

func newRecorder(t *testing.T) *store.Recorder {
	t.Helper()
	r, err := store.NewRecorder(t.TempDir())
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func none(store.Event) bool { return false }
func all(store.Event) bool  { return true }

func state(t *testing.T, r *store.Recorder, upto int, keep func(store.Event) bool) *store.Recorder {
	t.Helper()
	s, err := r.State(upto, keep)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func killed(t *testing.T, r *store.Recorder, upto int) *store.Recorder {
	t.Helper()
	s, err := r.Killed(upto)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func create(t *testing.T, s store.Store, name string, size int64) store.File {
	t.Helper()
	f, err := s.Create(name, size)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, f store.File, off int64, p []byte) {
	t.Helper()
	_, err := f.WriteAt(p, off)
	must(t, err)
}

func wantFile(t *testing.T, s store.Store, name string, want []byte) {
	t.Helper()
	f, err := s.Open(name)
	must(t, err)
	defer f.Close()
	wantBytes(t, f, want)
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func TestRecorder_Conformance(t *testing.T) {
	conform(t, func(t *testing.T) store.Store { return newRecorder(t) })
}

// A state built from a log is a Store like any other.
func TestRecorder_StateConformance(t *testing.T) {
	conform(t, func(t *testing.T) store.Store { return state(t, newRecorder(t), 0, none) })
	conform(t, func(t *testing.T) store.Store {
		r := newRecorder(t)
		create(t, r, "gone", 10)
		must(t, r.Remove("gone"))
		return killed(t, r, r.Len())
	})
}

func TestRecorder_NamesNeedSyncDir(t *testing.T) {
	r := newRecorder(t)
	must(t, r.Mkdir("d"))
	f := create(t, r, "d/a", 0)
	write(t, f, 0, fill(1, 100))
	must(t, f.Sync())
	wantList(t, state(t, r, r.Len(), none), "")
	if _, err := state(t, r, r.Len(), none).List("d"); err == nil {
		t.Error("a folder is durable without SyncDir")
	}
	must(t, r.SyncDir(""))
	wantList(t, state(t, r, r.Len(), none), "d")
	must(t, r.SyncDir("d"))
	wantFile(t, state(t, r, r.Len(), none), "d/a", fill(1, 100))

	must(t, r.Rename("d/a", "d/b"))
	wantList(t, state(t, r, r.Len(), none), "d", "a")
	wantFile(t, state(t, r, r.Len(), all), "d/b", fill(1, 100))
	must(t, r.SyncDir("d"))
	wantList(t, state(t, r, r.Len(), none), "d", "b")
	must(t, r.Remove("d/b"))
	wantList(t, state(t, r, r.Len(), none), "d", "b")
	wantList(t, state(t, r, r.Len(), all), "d")
	// An earlier point of the log is not forgotten.
	wantList(t, state(t, r, 0, all), "")
}

func TestRecorder_RenameReplaces(t *testing.T) {
	r := newRecorder(t)
	old := create(t, r, "superblock", 0)
	write(t, old, 0, []byte("old"))
	must(t, old.Sync())
	must(t, r.SyncDir(""))
	f := create(t, r, "superblock.new", 0)
	write(t, f, 0, []byte("new"))
	must(t, f.Sync())
	must(t, r.Rename("superblock.new", "superblock"))
	// Whatever survives of creation and rename: one whole file or the other.
	for mask := range 4 {
		i := -1
		s := state(t, r, r.Len(), func(store.Event) bool { i++; return mask>>i&1 == 1 })
		want := []byte("old")
		if mask&2 != 0 {
			want = []byte("new")
		}
		wantFile(t, s, "superblock", want)
	}
}

func TestRecorder_KeepsAnySubsetOfSectors(t *testing.T) {
	r := newRecorder(t)
	f := create(t, r, "f", 2048)
	must(t, f.Sync())
	must(t, r.SyncDir(""))
	write(t, f, 100, fill(1, 1500)) // sectors 0 to 3
	write(t, f, 600, fill(2, 10))   // sector 1 again
	if asked := countAsked(t, r); asked != 5 {
		t.Errorf("keep was asked %d times, want once per sector written", asked)
	}
	sector := func(n int64) func(store.Event) bool {
		return func(e store.Event) bool { return e.Off == n*512 && e.Len == 512 }
	}
	want := make([]byte, 2048)
	copy(want[512:1024], fill(1, 512))
	copy(want[600:610], fill(2, 10))
	wantFile(t, state(t, r, r.Len(), sector(1)), "f", want)
	// The earlier version of the sector alone.
	copy(want[600:610], fill(1, 10))
	first := func(e store.Event) bool { return e.Off == 512 && e.Seq == r.Len()-2 }
	wantFile(t, state(t, r, r.Len(), first), "f", want)
	must(t, f.Sync())
	if asked := countAsked(t, r); asked != 0 {
		t.Errorf("keep was asked %d times after a sync", asked)
	}
}

func countAsked(t *testing.T, r *store.Recorder) (n int) {
	t.Helper()
	state(t, r, r.Len(), func(store.Event) bool { n++; return true })
	return n
}

func TestRecorder_SizeNeedsSync(t *testing.T) {
	r := newRecorder(t)
	f := create(t, r, "f", 0)
	must(t, r.SyncDir(""))
	write(t, f, 0, fill(1, 1300))
	wantFile(t, state(t, r, r.Len(), none), "f", nil)
	wantFile(t, state(t, r, r.Len(), func(e store.Event) bool { return e.Off == 512 }), "f", append(make([]byte, 512), fill(1, 512)...))
	wantFile(t, state(t, r, r.Len(), all), "f", fill(1, 1300))
	must(t, f.Sync())
	must(t, f.PunchHole(0, 600))
	must(t, f.Truncate(700))
	punched := append(make([]byte, 600), fill(1, 700)...)
	wantFile(t, state(t, r, r.Len(), none), "f", fill(1, 1300))
	wantFile(t, state(t, r, r.Len(), all), "f", punched[:700])
	wantFile(t, state(t, r, r.Len(), func(e store.Event) bool { return e.Kind == store.EventPunch }), "f", punched)
}

// What a killed process wrote is there, and still not safe.
func TestRecorder_KilledIsNotSynced(t *testing.T) {
	r := newRecorder(t)
	f := create(t, r, "f", 0)
	must(t, r.SyncDir(""))
	write(t, f, 0, fill(1, 1000))
	k := killed(t, r, r.Len())
	wantFile(t, k, "f", fill(1, 1000))
	wantFile(t, state(t, k, k.Len(), none), "f", nil)
	g, err := k.Open("f")
	must(t, err)
	defer g.Close()
	must(t, g.Sync())
	wantFile(t, state(t, k, k.Len(), none), "f", fill(1, 1000))
	// The first Recorder is not touched by what happens to its offspring.
	write(t, g, 0, fill(2, 1000))
	wantFile(t, r, "f", fill(1, 1000))
	wantFile(t, state(t, r, r.Len(), none), "f", nil)
}

// A random history, and states of it, agree with a direct simulation.
func TestRecorder_FullStateIsLiveState(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	r := newRecorder(t)
	f := create(t, r, "f", 3000)
	want := make([]byte, 3000)
	type point struct {
		at   int
		want []byte
	}
	var points []point
	for range 200 {
		off := rnd.IntN(len(want) + 1)
		n := rnd.IntN(1500)
		switch rnd.IntN(5) {
		case 0, 1:
			p := fill(byte(rnd.IntN(256)), n)
			write(t, f, int64(off), p)
			want = append(want[:off], append(p, want[min(len(want), off+n):]...)...)
		case 2:
			must(t, f.PunchHole(int64(off), int64(n)))
			clear(want[off:min(len(want), off+n)])
		case 3:
			must(t, f.Truncate(int64(off+n)))
			want = append(want[:off:off], append(want[off:min(len(want), off+n)], make([]byte, max(0, off+n-len(want)))...)...)
		case 4:
			must(t, f.Sync())
		}
		points = append(points, point{r.Len(), slices.Clone(want)})
	}
	wantFile(t, r, "f", want)
	for _, p := range points {
		wantFile(t, state(t, r, p.at, all), "f", p.want)
		wantFile(t, killed(t, r, p.at), "f", p.want)
	}
}

func TestRecorder_CountsOpenFiles(t *testing.T) {
	r := newRecorder(t)
	f, err := r.Create("f", 0)
	must(t, err)
	if r.OpenFiles() != 1 {
		t.Errorf("OpenFiles = %d, want 1", r.OpenFiles())
	}
	must(t, f.Close())
	if r.OpenFiles() != 0 {
		t.Errorf("OpenFiles = %d, want 0", r.OpenFiles())
	}
}
