package meta_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// tornVolume is a notedVolume whose file of 4 MiB was overwritten at random.
func tornVolume(t *testing.T) (v *meta.Volume, calls *fileCalls, ino uint64, want []byte) {
	t.Helper()
	v, calls, ino = notedVolume(t)
	t.Cleanup(v.HoldGatherer())
	want = make([]byte, 4<<20)
	tear(t, v, ino, want)
	return v, calls, ino, want
}

// tear overwrites a file at random, in pieces of 8 KiB.
func tear(t *testing.T, v *meta.Volume, ino uint64, want []byte) {
	t.Helper()
	v.FlushedLongAgo()
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(want) / (8 << 10)) {
		at := want[i*8<<10:][:8<<10]
		for k := range at {
			at[k]++
		}
		must[int](t)(v.Write(meta.Caller{}, ino, at, int64(i)*8<<10))
	}
}

// reads reads a file and returns how often that read a segment.
func reads(t *testing.T, v *meta.Volume, calls *fileCalls, ino uint64, want []byte) (n int) {
	t.Helper()
	calls.calls = nil
	got := make([]byte, 1<<20) // as much as the kernel asks for
	for off := 0; off < len(want); off += len(got) {
		part := want[off:min(off+len(got), len(want))]
		if n := must[int](t)(v.Read(ino, got[:len(part)], int64(off))); !bytes.Equal(got[:n], part) {
			t.Fatalf("at %d: the file has become another one", off)
		}
	}
	for _, c := range calls.calls {
		if c.kind == "read" {
			n++
		}
	}
	return n
}

// TestVolume_Gather: what lies in many pieces is put together, and nothing else
// about the file changes.
func TestVolume_Gather(t *testing.T) {
	v, calls, ino, want := tornVolume(t)
	const hole, size = 1<<20 + 64<<10, 3<<20 + 512<<10 + 4<<10
	if err := v.Fallocate(meta.Caller{}, ino, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, hole, 8<<10); err != nil {
		t.Fatal(err)
	}
	clear(want[hole:][:8<<10])
	want = want[:size]
	must[meta.Attr](t)(v.SetAttr(meta.Caller{}, ino, meta.SetAttr{Size: new(uint64(size))}))
	before := must[meta.Attr](t)(v.GetAttr(ino))
	if n := reads(t, v, calls, ino, want); n < 400 {
		t.Fatalf("read in %d pieces, so the file is not torn", n)
	}
	v.Gather()
	if n := reads(t, v, calls, ino, want); n > 20 {
		t.Errorf("read in %d pieces", n)
	}
	if after := must[meta.Attr](t)(v.GetAttr(ino)); after != before {
		t.Errorf("attributes %+v were %+v", after, before)
	}
	if at := must[int64](t)(v.Seek(ino, 1<<20, unix.SEEK_HOLE)); at != hole {
		t.Errorf("a hole at %d, want %d", at, hole)
	}
	calls.calls = nil
	v.Gather()
	if n := calls.written(); n != 0 || v.Torn() != 0 {
		t.Errorf("a whole file: %d bytes were written, %d chunks are still noted", n, v.Torn())
	}
}

// TestVolume_Gather_Rounds: at once when nobody uses the volume, else what has
// been quiet for long, one MiB at a time.
func TestVolume_Gather_Rounds(t *testing.T) {
	v, calls, ino, want := tornVolume(t)
	round := func(what string, wantBytes int64) {
		t.Helper()
		calls.calls = nil
		v.GatherRound()
		if got := calls.written(); got != wantBytes {
			t.Fatalf("%s: %d bytes were written, want %d", what, got, wantBytes)
		}
	}
	for range meta.IdleRounds {
		round("not idle yet", 0)
	}
	round("idle", 4<<20)

	tear(t, v, ino, want)
	b := make([]byte, 4<<10)
	inUse := func() { must[int](t)(v.Read(ino, b, 0)) }
	for range meta.QuietRounds - 1 {
		inUse()
		round("not quiet yet", 0)
	}
	write := func(off int) { must[int](t)(v.Write(meta.Caller{}, ino, want[off:][:8<<10], int64(off))) }
	inUse()
	write(1 << 20)
	round("the first is quiet", 1<<20)
	write(3 << 20)
	round("the third is quiet", 1<<20)
	for range meta.QuietRounds - 3 {
		inUse()
		round("the others were written to again", 0)
	}
	for range 2 {
		inUse()
		round("they are quiet", 1<<20)
	}
	if n := reads(t, v, calls, ino, want); n > 20 {
		t.Errorf("read in %d pieces", n)
	}
}

// TestVolume_Gather_ByItself: a volume that is left alone does it.
func TestVolume_Gather_ByItself(t *testing.T) {
	v, calls, ino := notedVolume(t)
	torn := func() int {
		defer v.HoldGatherer()()
		return v.Torn()
	}
	want := make([]byte, 4<<20)
	tear(t, v, ino, want)
	if n := torn(); n != 4 {
		t.Fatalf("%d chunks are noted", n)
	}
	eventually(t, "nothing is noted any more", func() bool { return torn() == 0 })
	defer v.HoldGatherer()()
	if n := reads(t, v, calls, ino, want); n > 20 {
		t.Errorf("read in %d pieces", n)
	}
}

// TestVolume_Gather_GivesBack: what a large file had gets free while it is put
// together, not only afterwards.
func TestVolume_Gather_GivesBack(t *testing.T) {
	v, calls, ino := notedVolume(t)
	t.Cleanup(v.HoldGatherer())
	const size = meta.GatherBatch + 2 // MiB
	for i := range int64(size) {
		must[int](t)(v.Write(meta.Caller{}, ino, make([]byte, 1<<20), i<<20))
	}
	v.FlushedLongAgo()
	for i := range int64(40) { // pages in each MiB
		for k := range int64(size) {
			must[int](t)(v.Write(meta.Caller{}, ino, make([]byte, 4<<10), k<<20+8<<10+i*24<<10))
		}
	}
	calls.calls = nil
	calls.unpunched.Store(0)
	calls.mostUnpunched.Store(0)
	v.Gather()
	if n, most := calls.written(), calls.mostUnpunched.Load(); n != size<<20 || most > meta.GatherBatch<<20 {
		t.Errorf("%d bytes were written, %d of them before the host got something back", n, most)
	}
}

// TestVolume_Gather_NoticedByReader: after the volume was opened anew nobody knows
// what is torn, until somebody reads it.
func TestVolume_Gather_NoticedByReader(t *testing.T) {
	v, calls, ino, want := tornVolume(t)
	v.ForgetTorn()
	calls.calls = nil
	v.Gather()
	if n := calls.written(); n != 0 {
		t.Errorf("%d bytes were written of what nobody knows", n)
	}
	reads(t, v, calls, ino, want[:2<<20])
	v.Gather()
	if n := reads(t, v, calls, ino, want); n > 256+20 || n < 256 {
		t.Errorf("read in %d pieces, want 256 of what was not read and a few", n)
	}
}

// TestVolume_Gather_LeftAlone: what is not put together, and stays as it is.
func TestVolume_Gather_LeftAlone(t *testing.T) {
	t.Run("shared", func(t *testing.T) {
		v, calls, ino, want := tornVolume(t)
		other := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "g", unix.S_IFREG|0o600, 0))
		must[int64](t)(v.CopyRange(meta.Caller{}, ino, 0, other.Ino, 0, 1<<20))
		calls.calls = nil
		v.Gather()
		if n := calls.written(); n != 3<<20 {
			t.Errorf("%d bytes were written", n)
		}
		reads(t, v, calls, ino, want)
		reads(t, v, calls, other.Ino, want[:1<<20])
	})
	t.Run("host full", func(t *testing.T) {
		v, calls, ino, want := tornVolume(t)
		calls.full = true
		calls.calls = nil
		v.Gather()
		if n := calls.written(); n != 0 || v.Torn() != 4 {
			t.Errorf("%d bytes were written, %d chunks are noted", n, v.Torn())
		}
		reads(t, v, calls, ino, want)
		calls.full = false
		time.Sleep(10 * time.Millisecond) // so long programs are told what was known
		v.Gather()
		if n := reads(t, v, calls, ino, want); n > 20 {
			t.Errorf("read in %d pieces", n)
		}
	})
	t.Run("written meanwhile", func(t *testing.T) {
		v, calls, ino, want := tornVolume(t)
		calls.calls = nil
		calls.onRead = func() {
			calls.onRead = nil
			copy(want[8<<10:], bytes.Repeat([]byte("new"), 4<<10)[:8<<10])
			must[int](t)(v.Write(meta.Caller{}, ino, want[8<<10:][:8<<10], 8<<10))
		}
		v.Gather()
		if n := calls.written(); n != 8<<10 {
			t.Errorf("%d bytes were written, want those of the program", n)
		}
		reads(t, v, calls, ino, want)
	})
	t.Run("damaged", func(t *testing.T) {
		v, calls, ino, want := tornVolume(t)
		if err := v.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		calls.calls = nil
		b := make([]byte, 8<<10)
		must[int](t)(v.Read(ino, b, 2<<20+64<<10))
		at := calls.calls[len(calls.calls)-1]
		seg := must[store.File](t)(calls.Store.Open(at.name))
		defer seg.Close()
		whole := make([]byte, at.n)
		must[int](t)(seg.ReadAt(whole, at.off))
		must[int](t)(seg.WriteAt(bytes.Repeat([]byte{1}, len(whole)), at.off))
		calls.calls = nil
		v.Gather()
		if n := calls.written(); n != 3<<20 {
			t.Errorf("%d bytes were written", n)
		}
		if _, err := v.Read(ino, b, 2<<20+64<<10); err == nil {
			t.Error("what is damaged is read")
		}
		must[int](t)(seg.WriteAt(whole, at.off)) // the check at the end finds the rest whole
		reads(t, v, calls, ino, want)
	})
	t.Run("removed", func(t *testing.T) {
		v, calls, _, _ := tornVolume(t)
		if err := v.Unlink(meta.Caller{}, meta.RootIno, "f"); err != nil {
			t.Fatal(err)
		}
		calls.calls = nil
		v.Gather()
		if n := calls.written(); n != 0 {
			t.Errorf("%d bytes were written", n)
		}
	})
}
