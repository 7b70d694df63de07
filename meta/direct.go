package meta

import (
	"context"
	"sync"
	"sync/atomic"
)

// The data of a write can travel inside its journal record: then write and
// fsync are one flush of one file, and the next checkpoint puts the data beside its
// neighbours. Or it goes to a segment at once, as large writes do: then it is written
// once instead of twice, and no checkpoint has to move it, but the next flush is one
// of two files. So whoever flushes often gets the first, and whoever does not, the second.

const (
	// segmentThreshold is from how many bytes of whole pages on a write is large.
	segmentThreshold = 32 << 10
	// journalMost bounds how many bytes a large write, and what was written to the file
	// since it was flushed, have together if it travels in the journal all the same.
	journalMost = 256 << 10
	// directFrom is how many bytes small writes of whole pages may have brought since
	// somebody asked for a flush before they go to segments.
	directFrom = 1 << 20
	// sector is what the sizes of buffers are multiples of, and those of files are not.
	sector = 512
)

// dataLock serializes what changes the data mapping of one file, the migration of
// its small data included, so that a read-modify-write sees no change in between.
// Many inodes share one.
type dataLock struct {
	sync.Mutex
	end    uint64       // where the last write to one of them ended, in bytes
	writes atomic.Int64 // those into the journal since the last freeze; large ones count as several
	since  atomic.Int64 // bytes written since somebody asked to flush one of them
	little atomic.Bool  // the last time somebody asked, they fitted the journal
	read   atomic.Int64 // where the last read of one of them began, in bytes
	step   atomic.Int64 // how far that was from the one before
}

// SyncFile is Sync for who has written to one file, and will probably do it again.
func (v *Volume) SyncFile(ctx context.Context, ino uint64) error {
	lock := v.dataLock(ino)
	lock.little.Store(lock.since.Swap(0) <= v.journalMost())
	return v.Sync(ctx)
}

// journalMost is journalMost, or less if the journal's files are small.
func (v *Volume) journalMost() int64 { return min(journalMost, v.journal.size/4) }

// direct returns the pages [first, stop) of a write of bytes [off, end) that go to a
// segment at once, none if first is not below stop. Empty says that the file has no
// data. The last page may be one that the write does not fill: behind it is nothing
// but zeros then. The caller holds the data lock of the file.
func (v *Volume) direct(lock *dataLock, off, end uint64, empty bool) (first, stop uint64) {
	goesOn := off == 0 || off == lock.end
	lock.end = end
	first, stop = (off+pageSize-1)/pageSize, end/pageSize
	large := stop > first && (stop-first)*pageSize >= segmentThreshold
	// Most files are written once, in one piece. But who writes half a page in
	// sectors, as tar does, has a buffer of that size and goes on.
	whole := empty && off == 0 && end > smallFile && (end%pageSize == 0 || end%sector != 0)
	if whole {
		stop = (end + pageSize - 1) / pageSize
	}
	since := lock.since.Add(int64(end - off))
	if large && (since > v.journalMost() || !lock.little.Load()) {
		return first, stop
	}
	lock.writes.Add(1 + int64(end-off)/segmentThreshold)
	if large {
		return 0, 0
	}
	aligned := off == first*pageSize && end == stop*pageSize // or the rest of it would lie elsewhere
	if stop <= first || !aligned && !whole || v.unflushed.Add(int64(end-off)) <= directFrom {
		return 0, 0
	}
	// Single pages one after the other, as stdio writes them, are better put
	// together to whole blocks.
	if blocks := first%writePages == 0 && stop%writePages == 0; !whole && !blocks && goesOn {
		return 0, 0
	}
	return first, stop
}

// hasNoData reports whether a file has neither pages nor small data. The caller
// holds its data lock.
func (v *Volume) hasNoData(ino uint64) (none bool, err error) {
	err = v.view(func() error {
		n, err := v.inodeOf(ino)
		none = n.pages == 0
		return err
	})
	return none, err
}
