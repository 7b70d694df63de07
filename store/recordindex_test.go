package store_test

import (
	"bytes"
	"os"
	"slices"
	"syscall"
	"testing"

	"cmkfs/store"
)

// bolt has what the Recorder looks for in a bbolt database, and commits as one.
type bolt struct {
	file *os.File
	ops  struct {
		writeAt func(b []byte, off int64) (n int, err error)
	}
	NoSync bool
}

func openBolt(t *testing.T, s store.Store, name string) *bolt {
	t.Helper()
	f, err := os.OpenFile(s.Path(name), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	db := &bolt{file: f}
	db.ops.writeAt = f.WriteAt
	return db
}

// commit writes a page of data and a meta page.
func (db *bolt) commit(t *testing.T, b byte) error {
	t.Helper()
	if !db.NoSync {
		t.Fatal("bbolt still flushes by itself")
	}
	if _, err := db.ops.writeAt(fill(b, 4096), 8192); err != nil {
		return err
	}
	_, err := db.ops.writeAt(fill(b, 4096), 4096)
	return err
}

func TestRecorder_Watch_LogsCommits(t *testing.T) {
	r := newRecorder(t)
	db := openBolt(t, r, "index.new")
	_, err := db.file.Write(fill(1, 4*4096))
	must(t, err)
	r.Watch("index.new", db)
	must(t, r.Rename("index.new", "index.db"))
	must(t, r.SyncDir(""))
	made := r.Len()
	must(t, db.commit(t, 2))
	must(t, db.file.Truncate(8*4096))
	must(t, db.commit(t, 3))

	var kinds []store.Kind
	for _, e := range r.Events()[made:] {
		kinds = append(kinds, e.Kind)
	}
	commit := []store.Kind{store.EventWrite, store.EventSync, store.EventWrite, store.EventSync}
	if want := slices.Concat(commit, []store.Kind{store.EventTruncate, store.EventSync}, commit); !slices.Equal(kinds, want) {
		t.Fatalf("events %v, want %v", kinds, want)
	}
	content := func(s *store.Recorder) []byte {
		b, err := os.ReadFile(s.Path("index.db"))
		must(t, err)
		return b
	}
	whole := slices.Concat(fill(1, 4096), fill(2, 8192), fill(1, 4096))
	for _, c := range []struct {
		name string
		s    *store.Recorder
		want []byte
	}{
		{"as made", state(t, r, made, none), fill(1, 4*4096)},
		{"data lost", state(t, r, made+1, none), fill(1, 4*4096)},
		{"data flushed, meta lost", state(t, r, made+3, none), slices.Concat(fill(1, 8192), fill(2, 4096), fill(1, 4096))},
		{"data flushed, a sector of meta", state(t, r, made+3, func(e store.Event) bool { return e.Off == 4096 }),
			slices.Concat(fill(1, 4096), fill(2, 512), fill(1, 4096-512), fill(2, 4096), fill(1, 4096))},
		{"committed", state(t, r, made+4, none), whole},
		{"killed", killed(t, r, made+3), whole},
	} {
		if !bytes.Equal(content(c.s), c.want) {
			t.Errorf("%s: the file is not what it should be", c.name)
		}
		wantFile(t, c.s, "index.db", c.want)
	}
	if got := content(r); !bytes.Equal(got, content(state(t, r, r.Len(), none))) || len(got) != 8*4096 {
		t.Error("the file on the host and its log differ")
	}
}

// What is done to the file through the Store is on the host, too.
func TestRecorder_Watch_SharesTheFile(t *testing.T) {
	r := newRecorder(t)
	db := openBolt(t, r, "index.db")
	r.Watch("index.db", db)
	must(t, db.commit(t, 1))
	f, err := r.Open("index.db")
	must(t, err)
	defer f.Close()
	write(t, f, 0, fill(7, 4096))
	must(t, f.PunchHole(8192, 100))
	want := slices.Concat(fill(7, 4096), fill(1, 4096), fill(0, 100), fill(1, 4096-100))
	wantFile(t, r, "index.db", want)
	if got, err := os.ReadFile(r.Path("index.db")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("on the host it has other content, %v", err)
	}
	must(t, f.Truncate(100))
	if st, err := db.file.Stat(); err != nil || st.Size() != 100 {
		t.Errorf("on the host it has %d bytes, %v", st.Size(), err)
	}
	if s := state(t, r, 0, none); s.Len() != 0 {
		t.Errorf("a new state begins with events: %v", s.Events())
	}
	s := killed(t, r, r.Len())
	must(t, s.Remove("index.db"))
	wantList(t, s, "")
	wantList(t, r, "", "index.db")
}

// A fault in bbolt's writes and flushes fails its commit.
func TestFaulty_Watch_FailsCommits(t *testing.T) {
	for n, call := range []string{"WriteAt", "Sync", "WriteAt", "Sync"} {
		r := newRecorder(t)
		db := openBolt(t, r, "index.db")
		var failed store.Op
		s := store.NewFaulty(r, func(op store.Op) *store.Fault {
			if failed = op; op.N != n {
				return nil
			}
			return &store.Fault{Err: syscall.EIO}
		})
		s.Watch("index.db", db)
		wantErr(t, "commit", db.commit(t, 1), syscall.EIO)
		if failed.Call != call || failed.Name != "index.db" {
			t.Errorf("call %d is %s of %s, want %s", n, failed.Call, failed.Name, call)
		}
	}
}
