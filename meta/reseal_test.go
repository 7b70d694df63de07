package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

var newRecord = meta.KeyRecord{AEKID: "aek-2", SealedVEK: bytes.Repeat([]byte{0xB2}, 72)}

// resealVolume makes a volume over a Recorder with one file in it, and returns
// the file's contents.
func resealVolume(t *testing.T) (*store.Recorder, meta.Config, []byte) {
	t.Helper()
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	t.Cleanup(func() { rec.Close() })
	cfg := meta.Config{Store: rec, Key: crypto.NewKey(), VolumeID: [16]byte{1, 2, 3}, Now: anyClock()}
	err := meta.Create(context.Background(), cfg, meta.Params{
		JournalBytes: 256 << 10, AEKID: "aek-1", SealedVEK: bytes.Repeat([]byte{0xA1}, 72), Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:]),
	})
	if err != nil {
		t.Fatal(err)
	}
	v := must[*meta.Volume](t)(meta.Open(context.Background(), cfg))
	content := bytes.Repeat([]byte("what is in the volume"), 500)
	a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "file", unix.S_IFREG|0o600, 0))
	must[int](t)(v.Write(meta.Caller{}, a.Ino, content, 0))
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return rec, cfg, content
}

// wholeVolume opens a volume in a store and compares its file; it returns the
// account encryption key that its superblock names.
func wholeVolume(st store.Store, cfg meta.Config, content []byte) (aekID string, err error) {
	sb, err := meta.ReadSuperblock(st)
	if err != nil {
		return "", err
	}
	fill := map[string]byte{"aek-1": 0xA1, "aek-2": 0xB2}[sb.AEKID]
	if !bytes.Equal(sb.SealedVEK, bytes.Repeat([]byte{fill}, 72)) {
		return "", fmt.Errorf("the key sealed under %s is another one's", sb.AEKID)
	}
	cfg.Store = st
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		return "", err
	}
	defer v.Abandon()
	a, err := v.Lookup(meta.RootIno, "file")
	if err != nil {
		return "", err
	}
	got := make([]byte, len(content))
	if _, err := v.Read(a.Ino, got, 0); err != nil || !bytes.Equal(got, content) {
		return "", fmt.Errorf("the file differs: %w", err)
	}
	// Opening has cleaned up.
	if f, err := st.Open("superblock.new"); err == nil {
		f.Close()
		return "", errors.New("superblock.new is left")
	}
	return sb.AEKID, nil
}

// TestReseal_CrashAnywhere: whatever a crash of the process or of the host
// leaves of a reseal, the volume opens with the old key record or the new one,
// and after the reseal has returned with the new one.
func TestReseal_CrashAnywhere(t *testing.T) {
	rec, cfg, content := resealVolume(t)
	// An earlier reseal that did not come to its end.
	f := must[store.File](t)(rec.Create("superblock.new", 100))
	if err := errors.Join(f.Close(), rec.SyncDir("")); err != nil {
		t.Fatal(err)
	}
	from := rec.Len()
	if err := meta.Reseal(rec, "aek-1", newRecord); err != nil {
		t.Fatal(err)
	}
	to := rec.Len()
	if to-from < 6 {
		t.Fatalf("only %d events", to-from)
	}
	seen := map[string]int{}
	examine := func(what string, upto int, crashed *store.Recorder, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer crashed.Close()
		id, err := wholeVolume(crashed, cfg, content)
		if err != nil || upto == to && id != "aek-2" {
			t.Errorf("%s after event %d of %d: under %q, %v", what, upto-from, to-from, id, err)
		}
		seen[id]++
	}
	for upto := from; upto <= to; upto++ {
		killed, err := rec.Killed(upto)
		examine("process", upto, killed, err)
		for seed := range uint64(16) {
			rnd := rand.New(rand.NewPCG(seed, uint64(upto)))
			for _, k := range keeps[:5] {
				state, err := rec.State(upto, k.make(rnd))
				examine("host, keeps "+k.name, upto, state, err)
			}
		}
	}
	if seen["aek-1"] == 0 || seen["aek-2"] == 0 {
		t.Errorf("the crashes left %v", seen)
	}
}

// TestReseal_FaultAnywhere fails each call to the store in each way. A reseal
// that reports success is durable; after one that does not, the superblock says
// where the volume stands, and the next one succeeds.
func TestReseal_FaultAnywhere(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				rec, cfg, content := resealVolume(t)
				faulty := store.NewFaulty(rec, store.FailNth(n, fault))
				err := meta.Reseal(faulty, "aek-1", newRecord)
				id, verr := wholeVolume(rec, cfg, content)
				switch {
				case verr != nil:
					t.Fatalf("call %d: %v", n, verr)
				case err == nil && id != "aek-2":
					t.Fatalf("call %d: reported done, but the superblock names %s", n, id)
				case err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, meta.ErrNoSpace):
					t.Fatalf("call %d: the cause is hidden: %v", n, err)
				}
				if err == nil {
					lost := must[*store.Recorder](t)(rec.State(rec.Len(), keeps[0].make(nil)))
					if id, err := wholeVolume(lost, cfg, content); err != nil || id != "aek-2" {
						t.Fatalf("call %d: reported done, after a crash under %q, %v", n, id, err)
					}
					lost.Close()
				} else if id == "aek-1" {
					if err := meta.Reseal(rec, "aek-1", newRecord); err != nil {
						t.Fatalf("call %d: again: %v", n, err)
					}
				}
				if rec.OpenFiles() != 0 {
					t.Fatalf("call %d: %d files left open", n, rec.OpenFiles())
				}
				if faulty.Calls() <= n {
					if n < 6 {
						t.Fatalf("only %d calls", n)
					}
					return // every call has failed once
				}
			}
		})
	}
}

// TestReseal_Refusals changes nothing when the caller is wrong about the volume.
func TestReseal_Refusals(t *testing.T) {
	rec, _, _ := resealVolume(t)
	before := rec.Len()
	for what, err := range map[string]error{
		"another key": meta.Reseal(rec, "aek-0", newRecord),
		"no id":       meta.Reseal(rec, "aek-1", meta.KeyRecord{SealedVEK: []byte("x")}),
		"too long":    meta.Reseal(rec, "aek-1", meta.KeyRecord{AEKID: "aek-2", SealedVEK: make([]byte, 513)}),
	} {
		if err == nil {
			t.Errorf("%s: not refused", what)
		}
	}
	if err := meta.Reseal(rec, "aek-0", newRecord); !errors.Is(err, meta.ErrOtherKey) {
		t.Error(err)
	}
	if rec.Len() != before {
		t.Error("a refusal wrote something")
	}
}

// TestVolume_Reseal_WhileBusy reseals an open volume while it is written to. It
// is readable afterwards by this program and by the second reader.
func TestVolume_Reseal_WhileBusy(t *testing.T) {
	cfg, open := testVolume(t, 0)
	v := open()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 2 {
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint("busy", i), unix.S_IFREG|0o600, 0))
		writers.Go(func() {
			for n := int64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := v.Write(meta.Caller{}, a.Ino, []byte("more and more"), n%1000*13); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 40 {
		from := fmt.Sprint("aek-", n+1)
		if err := v.Reseal(from, meta.KeyRecord{AEKID: fmt.Sprint("aek-", n+2), SealedVEK: newRecord.SealedVEK}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	writers.Wait()
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := v.Reseal("aek-41", newRecord); !errors.Is(err, meta.ErrClosed) {
		t.Errorf("reseal of a closed volume: %v", err)
	}
	if sb, err := meta.ReadSuperblock(cfg.Store); err != nil || sb.AEKID != "aek-41" {
		t.Errorf("%+v %v", sb, err)
	}
	checkClean(t, cfg)
	r, err := readVolume(cfg.Store.Path(""), cfg.Key[:])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := r.readFile("busy0"); err != nil || !bytes.HasPrefix(b, []byte("more and more")) {
		t.Errorf("the second reader: %d bytes, %v", len(b), err)
	}
}

// TestReseal_LeftoverIsNoFinding: what an interrupted reseal leaves is nothing
// that a check reports.
func TestReseal_LeftoverIsNoFinding(t *testing.T) {
	cfg, _ := testVolume(t, 0)
	f := must[store.File](t)(cfg.Store.Create("superblock.new", 4096))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}

// TestReseal_OverwritesOldFile: the bytes of the old superblock are gone from
// the file that had them, which an open descriptor still shows.
func TestReseal_OverwritesOldFile(t *testing.T) {
	cfg, _ := testVolume(t, 0)
	old, err := os.Open(filepath.Join(cfg.Store.Path(""), "superblock"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := meta.Reseal(cfg.Store, "aek-1", newRecord); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	if _, err := old.ReadAt(b, 0); err != nil || bytes.Count(b, []byte{0}) != len(b) {
		t.Errorf("the old superblock is still there: %q %v", b[:16], err)
	}
}

// lateReader is a store in which the superblock is replaced just after it was
// opened for the first time.
type lateReader struct {
	store.Store
	replace sync.Once
	t       *testing.T
}

func (l *lateReader) Open(name string) (store.File, error) {
	f, err := l.Store.Open(name)
	l.replace.Do(func() {
		if err := meta.Reseal(l.Store, "aek-1", newRecord); err != nil {
			l.t.Error(err)
		}
	})
	return f, err
}

// TestReadSuperblock_ReplacedMeanwhile: whoever reads without the volume's lock,
// as a check of a mounted volume does, never takes the old file's zeros for
// damage.
func TestReadSuperblock_ReplacedMeanwhile(t *testing.T) {
	cfg, _ := testVolume(t, 0)
	sb, err := meta.ReadSuperblock(&lateReader{Store: cfg.Store, t: t})
	if err != nil || sb.AEKID != "aek-2" {
		t.Errorf("%+v %v", sb, err)
	}
}
