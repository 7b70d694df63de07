package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// A checkpoint of several transactions that a crash ends half way: the volume is
// what it was, and a journal without the operations that are half in the index is
// refused. The explorers do such checkpoints, too (history.reopen).
func TestVolume_CheckpointInParts(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	h := &history{seed: 1, cfg: format(t, rec), rec: rec}
	v := must[*meta.Volume](t)(h.reopen(rec))
	content := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, 3000+i*17) }
	var inodes []uint64
	for i := range 16 {
		a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprint("file", i), unix.S_IFREG|0o600, 0))
		must[int](t)(v.Write(meta.Caller{}, a.Ino, content(i), 0))
		inodes = append(inodes, a.Ino)
	}
	if err := v.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for i, ino := range inodes {
		size := uint64(100)
		must[meta.Attr](t)(v.SetAttr(meta.Caller{}, ino, meta.SetAttr{Size: &size}))
		must[int](t)(v.Write(meta.Caller{}, ino, content(i + 1)[:200], 50))
	}
	if err := v.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	before, begin := must[string](t)(dumpVolume(v)), rec.Len()
	if err := v.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	end := rec.Len()
	if after := must[string](t)(dumpVolume(v)); after != before {
		t.Errorf("behind the checkpoint: %s", textDiff(after, before))
	}
	if err := v.Abandon(); err != nil {
		t.Fatal(err)
	}
	commits, half := 0, 0
	for upto := begin; upto <= end; upto++ {
		if upto < end && rec.Events()[upto].Name != "index.tags" {
			continue // the others are as in any checkpoint
		}
		crashed := must[*store.Recorder](t)(rec.State(upto, nothing))
		if upto < end {
			// From the third on, a write and a flush for each, a part counts.
			if commits++; commits > 2 {
				half++
				cut(t, crashed)
				if _, err := h.reopen(crashed); err == nil || !strings.Contains(err.Error(), "durable") {
					t.Errorf("event %d: half a checkpoint without its journal: %v", upto, err)
				}
				crashed.Close()
				crashed = must[*store.Recorder](t)(rec.State(upto, nothing))
			}
		}
		v := must[*meta.Volume](t)(h.reopen(crashed))
		if after := must[string](t)(dumpVolume(v)); after != before {
			t.Errorf("event %d of %d to %d: %s", upto, begin, end, textDiff(after, before))
		}
		if err := errors.Join(v.Close(context.Background()), h.check(crashed)); err != nil {
			t.Errorf("event %d: %v", upto, err)
		}
		crashed.Close()
	}
	if commits < 10 || half < 5 {
		t.Errorf("%d writes of tags, %d of them after a part: the checkpoint was not many transactions", commits, half)
	}
}

// cut takes the last operations out of the journal, as damage that looks like a
// torn write does.
func cut(t *testing.T, rec *store.Recorder) {
	t.Helper()
	for _, name := range must[[]string](t)(rec.List("journal")) {
		f := must[store.File](t)(rec.Open("journal/" + name))
		size := must[int64](t)(f.Size())
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		last := bytes.LastIndex(b, []byte("cmkR"))
		for ; last > 0 && b[last+5] != 1; last = bytes.LastIndex(b[:last], []byte("cmkR")) { // a marker
		}
		if last > 0 {
			if _, err := f.WriteAt(make([]byte, size-int64(last)), int64(last)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
