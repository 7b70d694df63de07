package meta_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"cmkfs/meta"
	"cmkfs/store"
)

// mutant is a bug that the crash tests must find. Its methods work on nil: no
// bug.
type mutant struct {
	name string
	// lie says which calls to the store do nothing and answer that they did.
	// written is how many writes the file saw since its last flush.
	lie           func(op store.Op, written int) bool
	skipMarkers   bool
	reclaimsEarly bool
	inCreate      bool // it shows when a volume is made
	// then is what comes behind each operation in the sequences that are tried;
	// nil = any other two.
	then []op
	wrap bool // it shows when the journal is used again and again
}

// over is the store on which a volume with the bug runs.
func (b *mutant) over(rec *store.Recorder) store.Store {
	if b == nil || b.lie == nil {
		return rec
	}
	written := map[string]int{}
	return store.NewFaulty(rec, func(op store.Op) *store.Fault {
		lie := b.lie(op, written[op.Name])
		switch op.Call {
		case "WriteAt":
			written[op.Name]++
		case "Sync":
			written[op.Name] = 0
		}
		if lie {
			return &store.Fault{}
		}
		return nil
	})
}

func (b *mutant) opened(v *meta.Volume) {
	if b != nil && b.skipMarkers {
		v.SkipMarkers()
	}
}

func (b *mutant) reclaim(v *meta.Volume) {
	if b != nil && b.reclaimsEarly {
		v.ReclaimUnsynced()
	} else {
		v.ReclaimSynced()
	}
}

// lieAbout is a call on files whose name begins with prefix.
func lieAbout(call, prefix string) func(store.Op, int) bool {
	return func(op store.Op, _ int) bool { return op.Call == call && strings.HasPrefix(op.Name, prefix) }
}

func lieAboutIndex(which func(written int) bool) func(store.Op, int) bool {
	return func(op store.Op, written int) bool {
		return op.Call == "Sync" && op.Name == "index.db" && which(written)
	}
}

// mutants are the mistakes of which the engine is proud not to make them.
var mutants = []*mutant{
	{name: "segments are not flushed", lie: lieAbout("Sync", "segments/")},
	{name: "names of segments are not flushed", lie: lieAbout("SyncDir", "segments")},
	{name: "the journal is not flushed", lie: lieAbout("Sync", "journal/")},
	{name: "the index is not flushed", lie: lieAboutIndex(func(int) bool { return true })},
	{name: "the index is not flushed behind its meta page", lie: lieAboutIndex(func(written int) bool { return written == 1 }), wrap: true},
	{name: "the tags of the index are not flushed", lie: lieAbout("Sync", "index.tags"), wrap: true},
	{name: "flushes leave no markers", skipMarkers: true, then: []op{{kind: "write", ino: seqBar, length: 140_000, seed: 1}, {kind: "write", ino: seqBar, length: 140_000, seed: 2}, {kind: "close"}}},
	{name: "space is reclaimed before its operations are durable", reclaimsEarly: true, then: []op{{kind: "reclaim"}, {kind: "sync"}}},
	{name: "a new superblock is not flushed", lie: lieAbout("Sync", "superblock"), inCreate: true},
	{name: "a new index is renamed and the folder not flushed", lie: lieAbout("SyncDir", ""), inCreate: true},
	{name: "new journal files are not flushed", lie: lieAbout("Sync", "journal/"), inCreate: true},
}

// sequences to find the bug in.
func (b *mutant) sequences(rnd *rand.Rand) (out [][]op) {
	if b.then == nil {
		return triples(500, rnd)
	}
	for range 4 {
		for _, o := range seqOps {
			out = append(out, append([]op{o}, b.then...))
		}
	}
	rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// wrapped is a history in which every journal file is begun more than once,
// with a checkpoint in between.
func wrapped() (out []op) {
	for round := range 4 {
		for i := range 10 {
			value := strings.Repeat("v", 30_000+round)
			out = append(out, op{kind: "setxattr", ino: seqFoo, name: xattrNames[i%2], value: value})
		}
		out = append(out, op{kind: "sync"}, op{kind: "checkpoint"})
	}
	return out
}

func (b *mutant) find(s *sequences) error {
	rnd := rand.New(rand.NewPCG(3, 0))
	if b.wrap {
		ops := wrapped()
		return s.explore(ops, len(ops)/2, rnd)
	}
	return s.run(b.sequences(rnd))
}

// TestExplorer_FindsMutants: the crash tests would find these bugs if the
// engine had them. What they cannot find they do not prove.
func TestExplorer_FindsMutants(t *testing.T) {
	dir := shm(t)
	for _, bug := range mutants {
		t.Run(bug.name, func(t *testing.T) {
			s := newSequences(t, dir)
			s.bug, s.others = bug, 1
			var err error
			if bug.inCreate {
				err = createCrashes(t, bug)
			} else {
				err = bug.find(s)
			}
			if err == nil {
				t.Errorf("not found in %d states", s.states.Load())
			}
			t.Logf("after %d sequences and %d states: %.300v", s.played.Load(), s.states.Load(), err)
		})
	}
}

// TestVolume_WrappedJournal is the history of that mutant without it.
func TestVolume_WrappedJournal(t *testing.T) {
	s := newSequences(t, shm(t))
	if err := (&mutant{wrap: true}).find(s); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d distinct states", s.states.Load())
}
