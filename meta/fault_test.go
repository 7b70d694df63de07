package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// faults are the ways in which a call to the store fails.
var faults = map[string]store.Fault{
	"EIO, not applied":    {Err: syscall.EIO},
	"EIO, flush lost":     {Err: syscall.EIO, Lost: true},
	"EIO, applied":        {Err: syscall.EIO, Applied: true},
	"EIO, half written":   {Err: syscall.EIO, Short: true},
	"ENOSPC, not applied": {Err: syscall.ENOSPC},
}

// faultRun plays a script on a store of which one call fails.
type faultRun struct {
	cfg   meta.Config
	rec   *store.Recorder
	fault *store.Faulty
	v     *meta.Volume
	parts bool     // checkpoints are many transactions
	dumps []string // what the volume may be after a crash of the host, the newest last
}

// open starts a worker. A fault in it is one that a next worker does not meet.
func (r *faultRun) open() (err error) {
	defer func() {
		if err == nil {
			r.v.OnlyAskedFor()
		}
	}()
	if r.v, err = meta.Open(context.Background(), r.cfg); err == nil {
		if r.parts {
			r.v.CommitInParts()
		}
		return nil
	}
	if r.rec.OpenFiles() != 0 {
		return fmt.Errorf("a failed open left %d files open: %w", r.rec.OpenFiles(), err)
	}
	if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("open hides the cause: %w", err)
	}
	if r.v, err = meta.Open(context.Background(), r.cfg); err != nil {
		return fmt.Errorf("open after a fault: %w", err)
	}
	return nil
}

// restart ends a worker that has failed, and starts the next.
func (r *faultRun) restart() error {
	if err := r.v.Abandon(); err != nil && !errors.Is(err, meta.ErrFailed) {
		return fmt.Errorf("abandon: %w", err)
	}
	if r.rec.OpenFiles() != 0 {
		return fmt.Errorf("%d files left open", r.rec.OpenFiles())
	}
	r.cfg.Answered = r.v.Reached()
	return r.open()
}

func (r *faultRun) failed() bool {
	select {
	case <-r.v.Failed():
		return true
	default:
		return false
	}
}

// step does one operation. One that fails because of the fault is applied as a
// whole or not at all; everything answered before is there; and done again it
// succeeds, applied once.
func (r *faultRun) step(m *model, o op, unique int) (*model, error) {
	got := o.run(r.v, caller(unique))
	if o.kind == "copy" && got.err == nil {
		o.length = min(o.length, int64(got.value))
	}
	next, want := o.apply(m)
	r.dumps = append(r.dumps, next.dump())
	if sameOutcome(o, got, want) && !r.failed() {
		if o.kind == "sync" {
			r.dumps = r.dumps[len(r.dumps)-1:]
		}
		return next, nil
	}
	if got.err == nil && !sameOutcome(o, got, want) {
		return nil, fmt.Errorf("%v answered %v, want %v", o, got, want)
	}
	if r.failed() {
		if err := r.hostCrash(m, next); err != nil {
			return nil, fmt.Errorf("%v failed (%w), then the host crashes: %w", o, got.err, err)
		}
		if err := r.restart(); err != nil {
			return nil, err
		}
	}
	if err := reclaim(r.v, m, next); err != nil {
		return nil, fmt.Errorf("after the fault: %w", err)
	}
	text, err := dumpVolume(r.v)
	if err != nil {
		return nil, fmt.Errorf("after the fault: %w", err)
	}
	if text != next.dump() && (text != m.dump() || got.err == nil) {
		return nil, fmt.Errorf("%v answered %v, but afterwards: %s", o, got, textDiff(text, next.dump()))
	}
	// The request was not answered, and the kernel sends it again.
	if got = o.run(r.v, caller(unique)); !sameOutcome(o, got, want) {
		return nil, fmt.Errorf("%v, sent again, answered %v, want %v", o, got, want)
	}
	if err := compare(r.v, next.dump()); err != nil {
		return nil, fmt.Errorf("%v, sent again: %w", o, err)
	}
	return next, nil
}

// hostCrash checks that what was synced survives a crash of the host now, and the
// death of the process when the host has dropped what it could not write. Then no
// worker goes on for the same programs unless everything answered is there: before
// and after are the contents of the volume around the operation that failed.
func (r *faultRun) hostCrash(before, after *model) error {
	h := &history{cfg: r.cfg, dumps: r.dumps}
	h.cfg.Answered = 0 // nobody who was told is left
	answered := r.v.Reached()
	crashed, err := r.rec.State(r.rec.Len(), nothing)
	if err != nil {
		return err
	}
	defer crashed.Close()
	evicted, err := r.rec.Evicted(r.rec.Len())
	if err != nil {
		return err
	}
	defer evicted.Close()
	if err := goesOn(h.cfg, evicted, answered, before, after); err != nil {
		return err
	}
	for name, rec := range map[string]*store.Recorder{"crash": crashed, "evicted": evicted} {
		v, _, err := h.expect(rec, 0, len(r.dumps)-1)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := v.Abandon(); err != nil {
			return err
		}
	}
	return nil
}

// goesOn opens a volume for programs that were told of some operations. It has one
// of two contents then, or is refused because it has lost some.
func goesOn(cfg meta.Config, rec *store.Recorder, answered uint64, before, after *model) error {
	cfg.Store, cfg.Answered = rec, answered
	v, err := meta.Open(context.Background(), cfg)
	var lost *meta.LostError
	if errors.As(err, &lost) && lost.Have < answered && lost.Answered == answered {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open to go on: %w", err)
	}
	text := ""
	err = reclaim(v, before, after)
	if err == nil {
		text, err = dumpVolume(v)
	}
	if err == nil && text != before.dump() && text != after.dump() {
		err = fmt.Errorf("went on without what was answered: %s", textDiff(text, after.dump()))
	}
	return errors.Join(err, v.Abandon())
}

// play runs the script, and says whether the fault came.
func (r *faultRun) play(script []op, checkpointAt int) error {
	m := newModel()
	r.dumps = []string{m.dump()}
	if err := r.open(); err != nil {
		return err
	}
	for i, o := range script {
		if i == checkpointAt {
			if err := r.v.Checkpoint(); err != nil {
				if err := r.restart(); err != nil {
					return fmt.Errorf("after a failed checkpoint: %w", err)
				}
			}
			if err := compare(r.v, m.dump()); err != nil {
				return fmt.Errorf("after a checkpoint: %w", err)
			}
		}
		if i%4 == 3 {
			r.v.EndJournalFile()
		}
		if i%4 == 1 {
			r.v.FlushedLongAgo()
		}
		if i%8 == 6 {
			_ = r.v.GatherAll() // what fails is as before
		}
		next, err := r.step(m, o, i)
		if err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		m = next
	}
	// Nothing fails any more: the volume is whole, and stays it.
	if err := r.v.Close(context.Background()); err != nil && !errors.Is(err, meta.ErrFailed) {
		return fmt.Errorf("close: %w", err)
	}
	if r.rec.OpenFiles() != 0 {
		return fmt.Errorf("close left %d files open", r.rec.OpenFiles())
	}
	h := &history{cfg: r.cfg}
	v, err := h.reopen(r.rec)
	if err != nil {
		return fmt.Errorf("open at the end: %w", err)
	}
	if err := errors.Join(reclaim(v, m), compare(v, m.dump()), v.Sync(context.Background()), v.Abandon()); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	r.dumps = []string{m.dump()}
	if err := r.hostCrash(m, m); err != nil {
		return fmt.Errorf("crash at the end: %w", err)
	}
	return h.check(r.rec)
}

// TestVolume_FailsEveryCall fails the first call of a script to the store, the
// second, and so on until none is left to fail.
func TestVolume_FailsEveryCall(t *testing.T) {
	dir := shm(t)
	for seed := uint64(1); seed <= 2; seed++ {
		script := faultScript(seed, 20)
		for name, fault := range faults {
			for n := 0; ; n++ {
				hit, err := failNth(dir, script, n, fault)
				if err != nil {
					t.Fatalf("seed %d, %s, call %d: %v", seed, name, n, err)
				}
				if !hit {
					if n < 30 {
						t.Errorf("seed %d: only %d calls", seed, n)
					}
					break
				}
			}
		}
	}
}

// faultScript makes operations that all succeed when nothing fails.
func faultScript(seed uint64, n int) (script []op) {
	g := &generator{rnd: rand.New(rand.NewPCG(seed, 2)), seeds: seed * 7000}
	m := newModel()
	for len(script) < n {
		o := g.next(m)
		if o.kind == "copy" {
			continue // may do less than asked for, depending on what is where
		}
		next, out := o.apply(m)
		if out.err == nil {
			script, m = append(script, o), next
		}
	}
	return script
}

func failNth(dir string, script []op, n int, fault store.Fault) (hit bool, err error) {
	rec, err := store.NewRecorder(dir)
	if err != nil {
		return false, err
	}
	defer rec.Close()
	r := &faultRun{rec: rec, parts: n%2 == 1}
	r.cfg = meta.Config{Store: rec, Key: crypto.Key{9}, VolumeID: [16]byte{8}, Now: anyClock()}
	err = meta.Create(context.Background(), r.cfg, meta.Params{JournalBytes: 256 << 10, Commitment: crypto.Commit(r.cfg.Key, r.cfg.VolumeID[:])})
	if err != nil {
		return false, err
	}
	r.fault = store.NewFaulty(rec, func(op store.Op) *store.Fault {
		if op.N != n {
			return nil
		}
		hit = true
		return &fault
	})
	r.cfg.Store = r.fault
	err = r.play(script, len(script)/2)
	return hit, err
}

// TestCreate_FailsEveryCall: a format that fails leaves no volume, or a good
// one, and never one that is half made.
func TestCreate_FailsEveryCall(t *testing.T) {
	dir := shm(t)
	for name, fault := range faults {
		for n := 0; ; n++ {
			rec, err := store.NewRecorder(dir)
			if err != nil {
				t.Fatal(err)
			}
			hit := false
			faulty := store.NewFaulty(rec, func(op store.Op) *store.Fault {
				if op.N != n {
					return nil
				}
				hit = true
				return &fault
			})
			h := &history{cfg: meta.Config{Store: faulty, Key: crypto.Key{9}, VolumeID: [16]byte{8}}}
			err = meta.Create(context.Background(), h.cfg, meta.Params{JournalBytes: 256 << 10, Commitment: crypto.Commit(h.cfg.Key, h.cfg.VolumeID[:])})
			if rec.OpenFiles() != 0 {
				t.Errorf("%s, call %d: %d files left open", name, n, rec.OpenFiles())
			}
			v, openErr := h.reopen(rec)
			if openErr == nil {
				if err := errors.Join(compare(v, newModel().dump()), v.Abandon(), h.check(rec)); err != nil {
					t.Errorf("%s, call %d: %v", name, n, err)
				}
			} else if !errors.Is(openErr, meta.ErrNoVolume) {
				t.Errorf("%s, call %d: create says %v, open %v", name, n, err, openErr)
			}
			rec.Close()
			if !hit {
				if n < 15 || err != nil || openErr != nil {
					t.Errorf("%s: only %d calls, create: %v, open: %v", name, n, err, openErr)
				}
				break
			}
		}
	}
}

// TestCreate_CrashesEverywhere: the same for a crash of the host.
func TestCreate_CrashesEverywhere(t *testing.T) {
	if err := createCrashes(t, nil); err != nil {
		t.Error(err)
	}
}

func createCrashes(t *testing.T, bug *mutant) error {
	t.Helper()
	rec, err := store.NewRecorder(shm(t))
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Close()
	h := &history{cfg: format(t, bug.over(rec))}
	for upto := range rec.Len() + 1 {
		for _, keep := range keeps {
			crashed, err := rec.State(upto, keep.make(rand.New(rand.NewPCG(1, uint64(upto)))))
			if err != nil {
				t.Fatal(err)
			}
			v, err := h.reopen(crashed)
			switch {
			case err == nil:
				err = errors.Join(compare(v, newModel().dump()), v.Abandon(), h.check(crashed))
			case upto < rec.Len() && errors.Is(err, meta.ErrNoVolume):
				err = nil
			}
			crashed.Close()
			if err != nil {
				return fmt.Errorf("event %d of %d, keeps %s: %w", upto, rec.Len(), keep.name, err)
			}
		}
	}
	return nil
}

// TestVolume_Write_StoppedMeanwhile: when the volume stops while the data of a write
// is written to a segment, the write is not answered as if it were done.
func TestVolume_Write_StoppedMeanwhile(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	cfg := format(t, rec)
	var v *meta.Volume
	armed := false
	cfg.Store = store.NewFaulty(rec, func(op store.Op) *store.Fault {
		if armed && op.Call == "WriteAt" && strings.HasPrefix(op.Name, "segments/") {
			v.StopFailed()
		}
		return nil
	})
	v = openVolume(t, cfg)
	ino := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "a", unix.S_IFREG|0o600, 0)).Ino
	armed = true
	if n, err := v.Write(meta.Caller{}, ino, make([]byte, 64<<10), 0); n != 0 || !errors.Is(err, meta.ErrFailed) {
		t.Errorf("answered %d, %v", n, err)
	}
	armed = false
	if err := v.Abandon(); err != nil && !errors.Is(err, meta.ErrFailed) {
		t.Fatal(err)
	}
	v = openVolume(t, cfg)
	if a := must[meta.Attr](t)(v.GetAttr(ino)); a.Size != 0 {
		t.Errorf("the file has %d bytes", a.Size)
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestVolume_Sync_OtherFlushFails: who waits for another one's flush, which fails,
// is not told that everything is durable because the next flush finds nothing to do.
func TestVolume_Sync_OtherFlushFails(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	cfg := format(t, rec)
	var armed atomic.Bool
	flushing, goOn := make(chan struct{}), make(chan struct{})
	cfg.Store = store.NewFaulty(rec, func(op store.Op) *store.Fault {
		if op.Call == "Sync" && strings.HasPrefix(op.Name, "segments/") && armed.CompareAndSwap(true, false) {
			close(flushing)
			<-goOn
			return &store.Fault{Err: syscall.EIO, Lost: true}
		}
		return nil
	})
	v := openVolume(t, cfg)
	ino := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "a", unix.S_IFREG|0o600, 0)).Ino
	must[int](t)(v.Write(meta.Caller{}, ino, make([]byte, 64<<10), 0))
	armed.Store(true)
	answers := make(chan error, 2)
	sync := func() { answers <- v.Sync(t.Context()) }
	go sync()
	<-flushing
	go sync()
	time.Sleep(100 * time.Millisecond) // for the second one to wait; it has to fail as well if it does not yet
	close(goOn)
	for range 2 {
		if err := <-answers; !errors.Is(err, meta.ErrFailed) {
			t.Errorf("a flush answers %v", err)
		}
	}
	if err := v.Abandon(); !errors.Is(err, meta.ErrFailed) {
		t.Error(err)
	}
}
