package meta

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"cmkfs/store"
)

// checkpoint moves the overlay into the index and frees the journal:
//
//  1. Small data of large files goes to segments, as ordinary operations.
//     A crash leaves operations like any others.
//  2. The overlay is frozen at operation S; later ones go to a new overlay.
//  3. Everything up to S becomes durable, segment data above all.
//  4. Blocks that died up to S are punched. A crash from here on repeats that:
//     recovery frees again what the journal's operations freed.
//  5. Transactions of bbolt write the frozen overlay, the last of them also the
//     summary with S, and index.tags the tags of the pages of each. A crash before
//     the last of these are durable leaves an index of the old summary, some of
//     whose values may be as of S, and the whole journal, which gives them these
//     values again; after it, recovery skips journal operations up to S.
//  6. Journal slots up to S may be overwritten. A marker in the journal says that
//     S was durable, so that an older index put in its place is noticed.
//
// On error the volume goes on with everything still in overlay and journal,
// unless bbolt's meta page was written and its flush failed: then the index that
// everybody sees is not the one that a crash of the host leaves, whatever the
// error was. Opening the volume anew writes that page again (settleIndex).
func (v *Volume) checkpoint() error {
	v.checkpointMu.Lock()
	defer v.checkpointMu.Unlock()
	if err := v.migrate(); err != nil && !errors.Is(err, store.ErrFull) {
		return fmt.Errorf("migrate small data: %w", err)
	}
	s := v.freeze()
	if s == nil {
		// After a crash of the host that cost every operation the index does not
		// have, journal files are left that hold nothing anybody needs.
		v.journal.release(v.committed.seq)
		return nil
	}
	if err := v.syncTo(s.seq); err != nil {
		return err
	}
	v.reclaimSynced()
	last, err := v.index.commitParts(v.frozen, v.committed, s, v.mostNodes, v.releaseFrozen)
	v.committed = last
	if err != nil {
		if v.indexAhead() {
			v.flushFailed()
			v.fail(err)
			return fmt.Errorf("write the index: %w", err)
		}
		v.thaw()
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return fmt.Errorf("%w for a checkpoint: %w", ErrNoSpace, err)
		}
		v.flushFailed()
		return fmt.Errorf("write the index: %w", err)
	}
	v.index.cache.drop(v.frozen)
	v.mu.Lock()
	v.frozen = nil
	v.noteChangesLocked()
	v.mu.Unlock()
	v.wakeWaiters()
	v.checkpointed.Store(s.position())
	v.journal.release(s.seq)
	return v.journal.marker(s.seq)
}

// releaseFrozen takes the values of the keys before next, which are in the index
// now, out of the frozen overlay: who waits for memory need not wait for the
// whole checkpoint.
func (v *Volume) releaseFrozen(next key) {
	var keys []key
	v.frozen.tree.Scan(func(it item) bool { // nobody else changes it
		if it.key.t != tableSegment && it.key.less(next) {
			keys = append(keys, it.key)
		}
		return it.key.less(next)
	})
	const atOnce = 512 // with the state lock held
	for chunk := range slices.Chunk(keys, atOnce) {
		for _, k := range chunk {
			v.index.cache.remove(k)
		}
		v.mu.Lock()
		for _, k := range chunk {
			v.frozen.remove(k)
		}
		v.noteChangesLocked()
		v.mu.Unlock()
	}
	v.wakeWaiters()
}

// indexAhead reports, after a commit that failed, that the index is not as
// before.
func (v *Volume) indexAhead() bool {
	if v.index.untagged {
		return false // it has no tags yet, and so does not count
	}
	s, err := v.index.summary()
	return err != nil || s.commits != v.committed.commits
}

// freeze makes the overlay immutable and describes the state it leads to. It
// returns nil if there is nothing to write.
func (v *Volume) freeze() *summary {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seq == v.committed.seq {
		return nil
	}
	for id := range v.space.changed {
		k := key{tableSegment, id, 0}
		if live := v.space.live[id]; live > 0 {
			v.put(k, encodeCount(uint64(live)))
		} else {
			v.put(k, nil)
			delete(v.space.live, id)
		}
	}
	clear(v.space.changed)
	if v.cfg.InFlight != nil {
		if unanswered := v.cfg.InFlight(); unanswered != nil {
			pending := make(map[uint64]uint64)
			for _, unique := range unanswered {
				if r, ok := v.replies[unique]; ok {
					pending[unique] = r
				}
			}
			v.replies = pending
		}
	}
	s := &summary{
		seq: v.seq, commits: v.committed.commits + 1, usedPages: v.usedPages, files: v.files, nextIno: v.nextIno,
		nextSeg: v.segments.nextID(), setHash: v.committed.setHash, session: v.session, replies: maps.Clone(v.replies),
	}
	v.frozen, v.active, v.due = v.active, newOverlay(), false
	for i := range v.dataLocks {
		v.dataLocks[i].writes.Store(0)
	}
	return s
}

// thaw takes a freeze back after a failed transaction.
func (v *Volume) thaw() {
	v.mu.Lock()
	defer v.mu.Unlock()
	merged, newer := v.frozen, v.active
	// Readers hold no reference to the frozen overlay beyond the lock.
	newer.tree.Scan(func(it item) bool {
		merged.put(it.key, it.val)
		return true
	})
	v.active, v.frozen, v.due = merged, nil, true // who failed tries again in its own time
	v.noteChangesLocked()
	for id := range v.space.live {
		v.space.changed[id] = struct{}{}
	}
}

// tryCheckpoint runs a checkpoint from the background, tells what went wrong,
// and keeps admission informed.
func (v *Volume) tryCheckpoint() error {
	err := v.checkpoint()
	full := errors.Is(err, ErrNoSpace)
	if err != nil && !full {
		if v.stopped() == nil {
			v.fail(err)
		}
	}
	v.admission.Lock()
	if full != v.admission.full {
		v.log.Warn("host directory", "full", full)
	}
	v.admission.full = full
	v.admission.Unlock()
	v.admission.cond.Broadcast()
	return err
}
