package fs_test

import (
	"reflect"
	"slices"
	"testing"

	"cmkfs/fs"
)

func TestGate_StatesAndRequests(t *testing.T) {
	write := func(flags uint32) []byte { return fs.Request(16, 2, 5, 0, 0, 0, 0, 4096, flags, 0, 0, 0, 0) }
	setattr := func(valid uint32) []byte { return fs.Request(4, 2, 5, valid) }
	for _, c := range []struct {
		what             string
		request          []byte
		draining, closed bool
	}{
		{"LOOKUP", fs.Request(1, 2, 1), false, false},
		{"GETATTR", fs.Request(3, 2, 1), false, false},
		{"READ", fs.Request(15, 2, 5), false, false},
		{"WRITE by write(2)", write(0), false, false},
		{"WRITE of dirty pages", write(1), true, false},
		{"WRITE of dirty pages that clears set-user-ID", write(5), true, false},
		{"SETATTR of kept times", setattr(1<<5 | 1<<10), true, false},
		{"SETATTR of kept times with handle", setattr(1<<5 | 1<<10 | 1<<6), true, false},
		{"SETATTR of the size", setattr(1<<3 | 1<<5), false, false},
		{"SETATTR of the mode", setattr(1), false, false},
		{"FSYNC", fs.Request(20, 2, 5), true, false},
		{"FSYNCDIR", fs.Request(30, 2, 5), true, false},
		{"FLUSH", fs.Request(25, 2, 5), true, false},
		{"RELEASE", fs.Request(18, 2, 5), true, false},
		{"STATFS", fs.Request(17, 2, 1), false, false},
		{"GETXATTR", fs.Request(22, 2, 1), false, false},
		{"READDIRPLUS", fs.Request(44, 2, 1), false, false},
		{"MKNOD", fs.Request(8, 2, 1), false, false},
	} {
		if !fs.LetThrough(0, c.request) {
			t.Errorf("%s: refused by an open gate", c.what)
		}
		if got := fs.LetThrough(1, c.request); got != c.draining {
			t.Errorf("%s: let through while draining: %v", c.what, got)
		}
		if got := fs.LetThrough(2, c.request); got != c.closed {
			t.Errorf("%s: let through by a closed gate: %v", c.what, got)
		}
	}
}

// Requests that wait are left alone, but for those that could block an
// invalidation: they are served until nothing is filled by them any more.
func TestGate_Waiting(t *testing.T) {
	const direct = 0o40000
	read := func(number uint64, flags uint32) []byte {
		return fs.Request(15, number, 5, 0, 0, 4096, 0, 8192, 0, 0, 0, flags, 0)
	}
	write := func(number uint64, kind uint32) []byte {
		return fs.Request(16, number, 5, 0, 0, 4096, 0, 8192, kind, 0, 0, 0, 0)
	}
	setattr := func(number uint64, valid uint32) []byte { return fs.Request(4, number, 5, valid) }
	for _, c := range []struct {
		what                      string
		request                   func(number uint64) []byte
		draining, holding, closed string
	}{
		{"LOOKUP", func(n uint64) []byte { return fs.Request(1, n, 1) }, "waits", "waits", "waits"},
		{"READ", func(n uint64) []byte { return read(n, 0) }, "served", "waits", "waits"},
		{"direct READ", func(n uint64) []byte { return read(n, direct) }, "waits", "waits", "waits"},
		{"WRITE by write(2)", func(n uint64) []byte { return write(n, 0) }, "served", "waits", "waits"},
		{"WRITE of dirty pages", func(n uint64) []byte { return write(n, 1) }, "served", "served", "refused"},
		{"truncating SETATTR", func(n uint64) []byte { return setattr(n, 1<<3) }, "served", "waits", "waits"},
		{"SETATTR of the mode", func(n uint64) []byte { return setattr(n, 1) }, "waits", "waits", "waits"},
		{"SETATTR of kept times", func(n uint64) []byte { return setattr(n, 1<<5|1<<10) }, "served", "served", "refused"},
		{"STATFS", func(n uint64) []byte { return fs.Request(17, n, 1) }, "refused", "refused", "refused"},
	} {
		w := fs.NewWaitingGate()
		if got := w.Enter(c.request(2)); got != c.draining {
			t.Errorf("%s while draining: %s", c.what, got)
		}
		w.Hold()
		if got := w.Enter(c.request(4)); got != c.holding {
			t.Errorf("%s while holding: %s", c.what, got)
		}
		w.Close()
		if got := w.Enter(c.request(6)); got != c.closed {
			t.Errorf("%s when closed: %s", c.what, got)
		}
	}
	w := fs.NewWaitingGate()
	w.Enter(read(2, 0))
	if waiting, touched := w.Counts(); waiting != 0 || touched != 1 {
		t.Errorf("after a READ while draining: %d wait, %d touched", waiting, touched)
	}
	w.Hold()
	w.Enter(read(4, 0))
	w.Enter(read(6, 0))
	w.Enter(fs.Request(1, 8, 5))
	if waiting, touched := w.Counts(); waiting != 3 || touched != 0 {
		t.Errorf("after requests while holding: %d wait, %d touched", waiting, touched)
	}
	if !w.Interrupted(6) || w.Interrupted(6) {
		t.Error("a request was not interrupted once")
	}
	if n := w.Release(6); n != 0 {
		t.Errorf("%d requests of another node were released", n)
	}
	if n := w.Release(5); n != 1 {
		t.Errorf("%d requests were released", n)
	}
	if waiting, touched := w.Counts(); waiting != 1 || touched != 1 {
		t.Errorf("after a release: %d wait, %d touched", waiting, touched)
	}
	if n := w.GiveUp(); n != 1 || w.Enter(fs.Request(1, 10, 5)) != "refused" {
		t.Errorf("%d waited when it was given up", n)
	}
}

// What may be half written is before the pages that READs keep locked, or where
// WRITEs have been, and no locked page is touched.
func TestAnswerer_Exposed(t *testing.T) {
	const mib, page, direct = 1 << 20, 4096, 0o40000
	read := func(number uint64, node uint64, offset, length, flags uint32) []byte {
		return fs.Request(15, number, node, 0, 0, offset, 0, length, 0, 0, 0, flags, 0)
	}
	write := func(number uint64, node uint64) []byte {
		return fs.Request(16, number, node, 0, 0, 100, 0, 9*page, 0, 0, 0, 0, 0)
	}
	for _, c := range []struct {
		what     string
		requests [][]byte
		want     [][3]int64
	}{
		{"nothing", nil, nil},
		{"the first page", [][]byte{read(2, 5, 0, page, 0)}, nil},
		{"one READ", [][]byte{read(2, 5, 40*page, page, 0)}, [][3]int64{{5, 0, 40 * page}}},
		{"far into the file", [][]byte{read(2, 5, 9*mib, page, 0)}, [][3]int64{{5, 8 * mib, mib}}},
		{"two, side by side", [][]byte{read(2, 5, 9*mib+page, page, 0), read(4, 5, 9*mib, page, 0)}, [][3]int64{{5, 8 * mib, mib}}},
		{"two, apart", [][]byte{read(4, 5, 3*page, page, 0), read(2, 5, page, page, 0)}, [][3]int64{{5, 0, page}, {5, 2 * page, page}}},
		{"the same pages twice", [][]byte{read(4, 5, page, page, 0), read(2, 5, page, page, 0)}, [][3]int64{{5, 0, page}}},
		{"a WRITE has the file's lock", [][]byte{read(2, 5, 9*mib, page, 0), write(4, 5)}, [][3]int64{{5, page, 8 * page}}},
		{"a READ of what a WRITE filled", [][]byte{read(2, 5, 3*page, 2*page, 0), write(4, 5)}, [][3]int64{{5, page, 2 * page}, {5, 5 * page, 4 * page}}},
		{"a READ of all of it", [][]byte{read(2, 5, 0, mib, 0), write(4, 5)}, nil},
		{"READs of both ends", [][]byte{read(2, 5, 0, 2*page, 0), read(6, 5, 8*page, mib, 0), write(4, 5)}, [][3]int64{{5, 2 * page, 6 * page}}},
		{"of another file", [][]byte{read(2, 5, page, page, 0), write(4, 6)}, [][3]int64{{5, 0, page}, {6, page, 8 * page}}},
		{"O_DIRECT locks none", [][]byte{read(2, 5, page, page, direct)}, nil},
	} {
		got := fs.Exposed(c.requests...)
		slices.SortFunc(got, func(a, b [3]int64) int { return slices.Compare(a[:], b[:]) })
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

func TestMessage_Forgets(t *testing.T) {
	if got := fs.Forgets(fs.Request(2, 2, 5, 3, 0)); !reflect.DeepEqual(got, [][2]uint64{{5, 3}}) {
		t.Errorf("FORGET: %d", got)
	}
	batch := fs.Request(42, 2, 0, 2, 0, 7, 0, 1, 0, 8, 0, 2, 0)
	if got := fs.Forgets(batch); !reflect.DeepEqual(got, [][2]uint64{{7, 1}, {8, 2}}) {
		t.Errorf("BATCH_FORGET: %d", got)
	}
	if got := fs.Forgets(batch[:len(batch)-4]); !reflect.DeepEqual(got, [][2]uint64{{7, 1}}) {
		t.Errorf("cut BATCH_FORGET: %d", got)
	}
}
