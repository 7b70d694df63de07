package fs_test

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"testing"

	"cmkfs/fs"
)

func newNodes(t *testing.T) *fs.NodeTable {
	t.Helper()
	n, err := fs.NewNodeTable()
	must(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

// sharedWith opens the same table as another process does.
func sharedWith(t *testing.T, n *fs.NodeTable) *fs.NodeTable {
	t.Helper()
	f, err := os.OpenFile(procPath(n.File()), os.O_RDWR, 0)
	must(t, err)
	other, err := fs.OpenNodeTable(f)
	must(t, err)
	t.Cleanup(func() { other.Close() })
	return other
}

func TestNodeTable_CountsAreShared(t *testing.T) {
	n := newNodes(t)
	other := sharedWith(t, n)
	inos := []uint64{1, 2, 1023, 1024, 262143, 262144, 5_000_000, 1<<34 - 1}
	for _, ino := range inos {
		must(t, n.Add(ino))
		must(t, other.Add(ino))
		if c := n.Count(ino); c != 2 {
			t.Errorf("count of %d: %d", ino, c)
		}
	}
	var walked []uint64
	must(t, other.Walk(func(ino uint64) error { walked = append(walked, ino); return nil }))
	if !reflect.DeepEqual(walked, inos) {
		t.Errorf("walked %d", walked)
	}
	if left := n.Remove(2, 1); left != 1 {
		t.Errorf("%d left", left)
	}
	if left := n.Remove(2, 100); left != 0 {
		t.Errorf("%d left, never below zero", left)
	}
	if other.Count(2) != 0 {
		t.Error("the other process still counts it")
	}
	if err := n.Add(1 << 34); err == nil {
		t.Error("a number beyond the table is accepted")
	}
}

// Trim gives back pages without counts, and no count, also while others count.
func TestNodeTable_Trim(t *testing.T) {
	n := newNodes(t)
	other := sharedWith(t, n)
	const most = 600_000 // counts in three chunks
	for ino := range uint64(most) {
		must(t, n.Add(ino))
	}
	backed := func() int64 {
		st, err := n.File().Stat()
		must(t, err)
		return st.Sys().(*syscall.Stat_t).Blocks * 512
	}
	full := backed()
	for ino := range uint64(most) {
		if ino%50_000 != 7 {
			other.Remove(ino, 1)
		}
	}
	var mu sync.Mutex
	exclusive := func(fn func() error) error {
		mu.Lock()
		defer mu.Unlock()
		return fn()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ino := uint64(0); ino < most; ino += 5003 {
			mu.Lock()
			_ = n.Add(ino)
			mu.Unlock()
		}
	})
	must(t, n.Trim(exclusive))
	wg.Wait()
	for ino := range uint64(most) {
		want := uint32(0)
		if ino%50_000 == 7 {
			want++
		}
		if ino%5003 == 0 {
			want++
		}
		if got := n.Count(ino); got != want {
			t.Fatalf("count of %d: %d, want %d", ino, got, want)
		}
	}
	for ino := uint64(0); ino < most; ino += 5003 {
		n.Remove(ino, 1)
	}
	must(t, n.Trim(exclusive))
	if left := backed(); left > full/10 {
		t.Errorf("%d bytes are left of %d", left, full)
	}
}

func TestNodeTable_Concurrent(t *testing.T) {
	n := newNodes(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range uint64(20_000) {
				n.Add(i % 300_000)
				if i%2 == 0 {
					n.Remove(i%300_000, 1)
				}
			}
		})
	}
	wg.Wait()
	sum := uint32(0)
	n.Walk(func(ino uint64) error { sum += n.Count(ino); return nil })
	if sum != 40_000 {
		t.Errorf("%d references, want 40000", sum)
	}
}

func TestNodeTable_InflightIsCarriedOver(t *testing.T) {
	n := newNodes(t)
	n.Begin(3, 77)
	n.Begin(9, 1<<63|88)
	other := sharedWith(t, n)
	got := other.TakeInflight()
	slices.Sort(got)
	if !reflect.DeepEqual(got, []uint64{77, 1<<63 | 88}) {
		t.Errorf("in flight: %d", got)
	}
	if again := other.TakeInflight(); len(again) != 0 {
		t.Errorf("still in flight: %d", again)
	}
	carried := n.Unanswered()
	slices.Sort(carried)
	if !reflect.DeepEqual(carried, []uint64{77, 88}) {
		t.Errorf("may come again: %d", carried)
	}
}

// How far programs know the volume to be outlives a worker, and never goes back.
func TestNodeTable_Answered(t *testing.T) {
	n := newNodes(t)
	if got := n.Answered(); got != 0 {
		t.Errorf("a new table: %d", got)
	}
	n.SetAnswered(7)
	other := sharedWith(t, n)
	other.SetAnswered(5)
	if got := other.Answered(); got != 7 {
		t.Errorf("7 was answered, the next worker knows of %d", got)
	}
	other.SetAnswered(1 << 40)
	if got := n.Answered(); got != 1<<40 {
		t.Errorf("the next worker answered 1<<40, and the supervisor knows of %d", got)
	}
	n.Begin(3, 77) // which lies elsewhere
	if n.Answered() != 1<<40 || len(n.TakeInflight()) != 1 {
		t.Error("requests and what was answered share their place")
	}
}

func TestOpenNodeTable_RefusesOtherFiles(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	f.WriteString("something else altogether")
	if _, err := fs.OpenNodeTable(f); !errors.Is(err, fs.ErrNodeTable) {
		t.Errorf("%v", err)
	}
}
