package meta

import (
	"errors"
	"fmt"

	"cmkfs/store"
)

// flushFailedName is a file that says: a flush failed, and what it should have
// written is in the host's page cache only, where the kernel takes it for
// written. The next flush would succeed without writing it, so the process that
// opens the volume next must first write it again.
const flushFailedName = "flush-failed"

// flushFailed leaves that file. If not even that is possible, the host's file
// system is beyond help.
func (v *Volume) flushFailed() {
	f, err := v.st.Create(flushFailedName, 0)
	if err == nil {
		err = errors.Join(f.Close(), v.st.SyncDir(""))
	}
	if err != nil && !errors.Is(err, store.ErrExist) {
		v.log.Error("the failed flush could not be recorded", "err", err)
	}
}

// flushHasFailed reports whether an earlier process left that file.
func (v *Volume) flushHasFailed() (bool, error) {
	f, err := v.st.Open(flushFailedName)
	if errors.Is(err, store.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// settleIndex makes the index durable that recovery has read, and its tags. Its
// writer may have died between a write and its flush: then the summary is in the
// host's page cache only, and the journal files that it covers are still what a
// crash of the host would leave. Nothing may be written before this: neither over
// such a file, nor by bbolt, which would take pages that the durable index uses
// for free ones. If the writer's flush failed, bbolt's meta pages and the tags
// are taken for written, and must be written again; all other pages were flushed
// before them.
func (v *Volume) settleIndex() error {
	failed, err := v.flushHasFailed()
	if err != nil {
		return err
	}
	if err = v.index.settle(failed); err != nil {
		v.flushFailed()
	}
	return err
}

// repeatWrites writes again, to the same places, what an earlier process did
// not get to the disk: everything in the journal files still needed, and the
// blocks no marker covers (the index is settled already). The bytes are those that are there, so that a crash
// in between changes nothing.
func (v *Volume) repeatWrites() error {
	failed, err := v.flushHasFailed()
	if err != nil || !failed {
		return err
	}
	v.log.Warn("an earlier flush failed: unflushed data is written again", "ops", v.seq-v.committed.seq)
	v.journal.mu.Lock()
	slots := v.journal.mu.slots
	v.journal.mu.Unlock()
	for _, s := range slots {
		if s.epoch == 0 {
			continue
		}
		if err := writeAgain(s.file, 0, v.journal.size); err != nil {
			return fmt.Errorf("write %s again: %w", s.name, err)
		}
	}
	begun := make(map[uint64]bool)
	for _, b := range v.unmarked {
		seg, err := v.segments.get(b.seg)
		if err == nil && !begun[b.seg] {
			begun[b.seg] = true
			err = writeAgain(seg.file, 0, pageSize)
		}
		if err == nil {
			err = writeAgain(seg.file, int64(b.phys)*pageSize, int64(b.blk)*pageSize)
		}
		if err != nil {
			return fmt.Errorf("write %s again: %w", segmentName(b.seg), err)
		}
	}
	if err := v.syncTo(v.seq); err != nil {
		return err
	}
	if err := v.st.Remove(flushFailedName); err != nil {
		return err
	}
	return v.st.SyncDir("")
}

// writeAgain reads a range of a file and writes it.
func writeAgain(f store.File, off, length int64) error {
	buf := make([]byte, min(length, 1<<20))
	for end := off + length; off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if err := readFull(f, buf, off); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			return err
		}
	}
	return nil
}
