package worker_test

import (
	"bytes"
	"testing"
	"time"

	"cmkfs/crypto"
	"cmkfs/worker"
)

// askKey sends a key request and returns the answer.
func (w *started) askKey(t *testing.T, r worker.KeyRequest) worker.KeyAnswer {
	t.Helper()
	if err := w.conn.Send(worker.Request{Key: &r}); err != nil {
		t.Fatal(err)
	}
	reply, err := w.receive(t)
	if err != nil || reply.Key == nil || reply.Key.ID != r.ID {
		t.Fatalf("%+v %v", reply, err)
	}
	return *reply.Key
}

// serving starts a worker that has the volume open.
func serving(t *testing.T, dir string, key crypto.Key) (*started, worker.Sealed) {
	t.Helper()
	w := start(t, worker.Start{Mode: worker.ModeServe, Dir: dir, Label: "a/v", Lease: &worker.Lease{Deadline: worker.In(time.Minute)}})
	r, _ := w.receive(t)
	if r.Sealed == nil {
		t.Fatalf("%+v", r)
	}
	if _, err := w.key.Write(key[:]); err != nil {
		t.Fatal(err)
	}
	if r, _ := w.receive(t); r.Ready == nil {
		t.Fatalf("%+v", r)
	}
	return w, *r.Sealed
}

// TestWorker_Reseal replaces the sealed key by a worker that serves the volume
// and by one that has no key; both refuse what does not fit.
func TestWorker_Reseal(t *testing.T) {
	dir := t.TempDir()
	key, sealed := format(t, dir)
	exchange := func(t *testing.T, w *started, from, to string) {
		t.Helper()
		if a := w.askKey(t, worker.KeyRequest{ID: 1}); a.Sealed == nil || a.Sealed.AEKID != from || a.Sealed.Quota != 1<<30 {
			t.Fatalf("%+v", a)
		}
		fresh := &worker.Sealed{VolumeID: sealed.VolumeID, AEKID: to, VEK: []byte("sealed under " + to)}
		if a := w.askKey(t, worker.KeyRequest{ID: 2, From: "another", New: fresh}); a.Failed == nil {
			t.Errorf("from another key: %+v", a)
		}
		if a := w.askKey(t, worker.KeyRequest{ID: 3, From: from, New: &worker.Sealed{AEKID: to, VEK: fresh.VEK}}); a.Failed == nil {
			t.Errorf("of another volume: %+v", a)
		}
		a := w.askKey(t, worker.KeyRequest{ID: 4, From: from, New: fresh})
		if a.Sealed == nil || a.Sealed.AEKID != to || !bytes.Equal(a.Sealed.VEK, fresh.VEK) || !bytes.Equal(a.Sealed.Commitment, sealed.Commitment) {
			t.Fatalf("%+v", a)
		}
	}

	w, _ := serving(t, dir, key)
	exchange(t, w, "aek", "two")
	// The volume is locked: nobody else replaces its key meanwhile.
	other := start(t, worker.Start{Mode: worker.ModeReseal, Dir: dir, Label: "a/v"})
	if r, _ := other.receive(t); r.Failed == nil || r.Failed.Class != worker.ClassLocked {
		t.Fatalf("%+v", r)
	}
	if err := w.conn.Send(worker.Request{Unmount: &worker.Unmount{}}); err != nil {
		t.Fatal(err)
	}
	if code := w.exitCode(t); code != worker.ExitOK {
		t.Errorf("exit code %d", code)
	}

	w = start(t, worker.Start{Mode: worker.ModeReseal, Dir: dir, Label: "a/v"})
	if r, _ := w.receive(t); r.Ready == nil {
		t.Fatalf("%+v", r)
	}
	exchange(t, w, "two", "three")
	w.conn.Close()
	if code := w.exitCode(t); code != worker.ExitOK {
		t.Errorf("exit code %d", code)
	}

	if _, now := serving(t, dir, key); now.AEKID != "three" || string(now.VEK) != "sealed under three" {
		t.Errorf("%+v", now)
	}
}

// TestWorker_Reseal_Damaged: a superblock that cannot be read is an answer, not
// the end.
func TestWorker_Reseal_Damaged(t *testing.T) {
	w := start(t, worker.Start{Mode: worker.ModeReseal, Dir: t.TempDir(), Label: "a/v"})
	if r, _ := w.receive(t); r.Ready == nil {
		t.Fatalf("%+v", r)
	}
	if a := w.askKey(t, worker.KeyRequest{ID: 7}); a.Failed == nil || a.Failed.Class != worker.ClassCorrupt {
		t.Errorf("%+v", a)
	}
}
