package meta_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// heldFlushes is a store that keeps flushes of journal files waiting while held
// is locked.
type heldFlushes struct {
	store.Store
	held sync.RWMutex
}

type heldFile struct {
	store.File
	held *sync.RWMutex
}

func (h *heldFlushes) Open(name string) (store.File, error) {
	f, err := h.Store.Open(name)
	if err == nil && strings.HasPrefix(name, "journal/") {
		f = heldFile{f, &h.held}
	}
	return f, err
}

func (f heldFile) Sync() error {
	f.held.RLock()
	defer f.held.RUnlock()
	return f.File.Sync()
}

// TestVolume_NextJournalFile_NobodyWaits: operations go on into the next journal
// files while the host takes long over a flush.
func TestVolume_NextJournalFile_NobodyWaits(t *testing.T) {
	st := &heldFlushes{Store: must[*store.Dir](t)(store.OpenDir(t.TempDir()))}
	cfg := meta.Config{Store: st, Key: crypto.NewKey()}
	if err := meta.Create(t.Context(), cfg, meta.Params{JournalBytes: 1 << 20, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])}); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, cfg)
	st.held.Lock()
	done := make(chan error, 1)
	go func() {
		for i := range 3 << 20 / 4096 { // three journal files of small files
			a, err := v.Mknod(meta.Caller{}, meta.RootIno, scaleName(i), unix.S_IFREG|0o600, 0)
			if err == nil {
				_, err = v.Write(meta.Caller{}, a.Ino, make([]byte, 4096), 0)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var err error
	select {
	case err = <-done:
		st.held.Unlock()
	case <-time.After(30 * time.Second):
		st.held.Unlock()
		t.Error("operations wait for a flush")
		err = <-done
	}
	if err != nil {
		t.Error(err)
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}

// TestVolume_NextJournalFile_HeaderLost: the host crashes when journal files have
// been begun that no flush has reached. Of their headers some have come to the disk
// and others not, in any combination, while everything else has.
func TestVolume_NextJournalFile_HeaderLost(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	h := &history{cfg: format(t, rec), rec: rec}
	v := openVolume(t, h.cfg)
	m := newModel()
	do := func(o op) {
		if got := o.run(v, caller(len(h.dumps))); got.err != nil {
			t.Fatal(o, got.err)
		}
		m, _ = o.apply(m)
		h.dumps = append(h.dumps, m.dump())
	}
	do(op{kind: "mknod", ino: meta.RootIno, name: "a", mode: unix.S_IFREG | 0o600})
	do(op{kind: "sync"})
	synced := len(h.dumps) - 1
	release := v.HoldFlushes()
	for i := range 300 {
		do(op{kind: "write", ino: meta.RootIno + 1, off: int64(i % 50 * 3000), length: 3000, seed: uint64(i)})
	}
	end := rec.Len()
	release()
	if err := v.Abandon(); err != nil {
		t.Fatal(err)
	}
	isHeader := func(e store.Event) bool {
		return e.Kind == store.EventWrite && strings.HasPrefix(e.Name, "journal/") && e.Off < 4096
	}
	begun := map[string]int{}
	for _, e := range rec.Unsynced(end) {
		if _, known := begun[e.Name]; isHeader(e) && !known {
			begun[e.Name] = len(begun)
		}
	}
	if len(begun) < 3 {
		t.Fatalf("only %d journal files were begun without a flush", len(begun))
	}
	for lost := range 1 << len(begun) {
		crashed := must[*store.Recorder](t)(rec.State(end, func(e store.Event) bool {
			return !isHeader(e) || lost&(1<<begun[e.Name]) == 0
		}))
		if err := lostHeaders(h, crashed, synced, lost); err != nil {
			t.Errorf("without the headers %b of %v: %v", lost, begun, err)
		}
		crashed.Close()
	}
}

// lostHeaders expects a volume to have all that was synced, everything if no header
// is lost, and to go on.
func lostHeaders(h *history, crashed *store.Recorder, synced, lost int) error {
	lo := synced
	if lost == 0 {
		lo = len(h.dumps) - 1
	}
	v, k, err := h.expect(crashed, lo, len(h.dumps)-1)
	if err != nil {
		return err
	}
	if _, err := v.Mknod(meta.Caller{}, meta.RootIno, "after", unix.S_IFREG|0o600, 0); err != nil {
		return fmt.Errorf("after recovery: %w", err)
	}
	if err := v.Close(context.Background()); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if lost != 0 && k == len(h.dumps)-1 {
		return fmt.Errorf("all operations are there")
	}
	return h.check(crashed)
}
