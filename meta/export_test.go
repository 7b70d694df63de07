package meta

import (
	"context"
	"crypto/sha256"
	"errors"
	"math"

	"cmkfs/crypto"
)

// Wake has the background flush and write a checkpoint soon.
func (v *Volume) Wake() { v.wake() }

// InitialSlots is how many journal files a volume has.
const InitialSlots = initialSlots

// Checkpoint writes a checkpoint now.
func (v *Volume) Checkpoint() error { return v.checkpoint() }

// HoldCheckpoints has none done until release is called.
func (v *Volume) HoldCheckpoints() (release func()) {
	v.checkpointMu.Lock()
	return v.checkpointMu.Unlock
}

// HoldFlushes has nothing become durable until release is called.
func (v *Volume) HoldFlushes() (release func()) {
	v.syncMu.Lock()
	return v.syncMu.Unlock
}

// CommitInParts makes a checkpoint as many transactions as it can be.
func (v *Volume) CommitInParts() {
	v.checkpointMu.Lock()
	defer v.checkpointMu.Unlock()
	v.mostNodes = 1
}

// EndJournalFile has the next record begin the next journal file, as if the
// present one were full, unless that would make operations wait.
func (v *Volume) EndJournalFile() {
	j := v.journal
	if j.used() >= busySlots-1 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.pos, j.mu.tail = j.size, nil
}

// HoldGatherer has pieces put together by Gather and GatherRound only until
// release is called.
func (v *Volume) HoldGatherer() (release func()) {
	v.torn.gathering.Lock()
	return v.torn.gathering.Unlock
}

// Gather puts all pieces together that there may be, as when nobody uses the volume.
// The caller holds the gatherer.
func (v *Volume) Gather() {
	v.torn.used.Store(false)
	v.torn.idle = idleRounds
	v.gatherRound(context.Background())
}

// GatherAll moves whatever the beginning of every file has in segments, as is done
// with what is in many pieces.
func (v *Volume) GatherAll() error {
	var last uint64
	if err := v.view(func() error { last = v.nextIno; return nil }); err != nil {
		return err
	}
	for ino := uint64(RootIno); ino < last; ino++ {
		for i := range uint64(2) {
			if err := v.gather(chunk{ino, i}, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// GatherRound is what the gatherer does in a second. The caller holds the gatherer.
func (v *Volume) GatherRound() { v.gatherRound(context.Background()) }

// The rounds after which pieces are put together.
const (
	IdleRounds  = idleRounds
	QuietRounds = quietRounds
)

// GatherBatch is how many MiB are put together before space is given back.
const GatherBatch = gatherBatch

// Torn is how many chunks of files may lie in pieces. The caller holds the gatherer.
func (v *Volume) Torn() int {
	v.torn.mu.Lock()
	defer v.torn.mu.Unlock()
	return len(v.torn.chunks) + len(v.torn.todo)
}

// ForgetTorn forgets what may lie in pieces, as closing the volume does.
func (v *Volume) ForgetTorn() {
	v.torn.mu.Lock()
	defer v.torn.mu.Unlock()
	clear(v.torn.chunks)
}

// JournalMost is how much of a flushed file's large writes goes to the journal.
func (v *Volume) JournalMost() int64 { return v.journalMost() }

// Around is how much is fetched of what a read of n bytes has to wait for, in a file
// that has so many pages.
func Around(pages uint64, n int) int64 { return (&readPlan{mapped: pages}).around(n) }

// FlushedLongAgo has small writes go to segments, until the next flush.
func (v *Volume) FlushedLongAgo() { v.unflushed.Store(directFrom) }

// OnlyAskedFor has the background make no checkpoint because of journal files.
func (v *Volume) OnlyAskedFor() {
	v.journal.mu.Lock()
	defer v.journal.mu.Unlock()
	v.journal.rotated = func() {}
}

// StopFailed stops the volume as an I/O error does.
func (v *Volume) StopFailed() { v.fail(errors.New("stopped by a test")) }

// ReclaimSynced punches what durable operations freed.
func (v *Volume) ReclaimSynced() { v.reclaimSynced() }

// ReclaimUnsynced punches what operations freed that are not durable: a bug.
func (v *Volume) ReclaimUnsynced() {
	v.reclaimMu.Lock()
	defer v.reclaimMu.Unlock()
	_ = v.reclaim(v.lastSeq())
}

// SkipMarkers makes flushes leave no markers: a bug.
func (v *Volume) SkipMarkers() {
	v.syncMu.Lock()
	defer v.syncMu.Unlock()
	v.marked = math.MaxUint64
}

// FlushHeld makes everything so far durable after during, while nothing can be
// committed.
func (v *Volume) FlushHeld(during func()) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	during()
	return v.syncTo(v.seq)
}

// DirtySegments is how many segments the next flush has to do with.
func (v *Volume) DirtySegments() int {
	v.segments.mu.Lock()
	defer v.segments.mu.Unlock()
	return len(v.segments.mu.dirty)
}

// Prove leaves a marker with what is durable.
func (v *Volume) Prove() { v.prove() }

// VerifyIndex authenticates the pages of the index and returns how many there are.
func VerifyIndex(cfg Config) (pages int64, err error) {
	f := newTagFile(cfg.Store, deriveKeys(cfg.Key), cfg.VolumeID)
	file, err := cfg.Store.Open(indexName)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	err = f.verify(file, func(page uint64) { err = errShort })
	_ = f.used.runs(nil, 1, func(uint64, int) error { pages++; return nil })
	return pages, errors.Join(err, f.close())
}

// Recoded decodes bytes of one kind and encodes the result again. ok false
// says that there is nothing to compare: the empty value.
type Recoded func(b []byte) (again []byte, ok bool, err error)

// Decoders are the formats of what is inside the sealed values and records.
var Decoders = map[string]Recoded{
	"superblock": func(b []byte) ([]byte, bool, error) {
		// The checksum is not what is examined here.
		if len(b) == superblockSize {
			sum := sha256.Sum256(b[:superblockSize-sha256.Size])
			copy(b[superblockSize-sha256.Size:], sum[:])
		}
		s, err := unmarshalSuperblock(b)
		if err != nil {
			return nil, false, err
		}
		// A list with fewer features is a superblock that verify refuses.
		return s.marshal(), len(s.fixed()) == headFeatures(b), nil
	},
	"summary": func(b []byte) ([]byte, bool, error) {
		s, err := unmarshalSummary(b)
		if err != nil {
			return nil, false, err
		}
		return s.marshal(), true, nil
	},
	"inode": func(b []byte) ([]byte, bool, error) {
		n, err := unmarshalInode(5, b)
		if err != nil {
			return nil, false, err
		}
		return n.marshal(), true, nil
	},
	"dirent": func(b []byte) ([]byte, bool, error) {
		ents, err := unmarshalDirents(b)
		return marshalDirents(ents), len(ents) > 0, err
	},
	"xattr": func(b []byte) ([]byte, bool, error) {
		list, err := unmarshalXattrs(b)
		return marshalXattrs(list), len(list) > 0, err
	},
	"region": func(b []byte) ([]byte, bool, error) {
		ptrs, err := unmarshalRegion(b)
		return marshalRegion(ptrs), len(ptrs) > 0, err
	},
	"operations": func(b []byte) ([]byte, bool, error) {
		ops, err := decodeOperations(b, 1)
		if err != nil {
			return nil, false, err
		}
		var again []byte
		for i := range ops {
			again = ops[i].appendTo(again)
		}
		return again, true, nil
	},
}

// headFeatures returns where the features of a superblock end.
func headFeatures(b []byte) int {
	end := 53
	for range b[52] {
		end += 1 + int(b[end])
	}
	return end
}

// JournalKey and JournalVolume are those of the journal file that the fuzz
// test reads.
var (
	JournalKey    = crypto.Key{5}
	JournalVolume = [16]byte{6}
)

// ErrNoHeader says that a journal file was never begun.
var ErrNoHeader = errors.New("no header")

// ReadJournal reads a journal file as recovery does and returns the numbers of
// its operations.
func ReadJournal(b []byte) ([]uint64, error) {
	h, cipher, err := readHeader(b, journalMagic, JournalVolume, JournalKey)
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, ErrNoHeader
	}
	sc := &slotScan{header: h, cipher: cipher, data: b, until: math.MaxUint64}
	ops, _, _ := sc.records()
	var out []uint64
	for _, op := range ops {
		out = append(out, op.seq)
	}
	return out, nil
}

// AccessPending is accessPending.
const AccessPending = accessPending

// PendingAccessTimes is how many access times are not saved yet.
func (v *Volume) PendingAccessTimes() int { return int(v.atimes.count.Load()) }
