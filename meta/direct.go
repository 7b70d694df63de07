package meta

import (
	"sync"
	"sync/atomic"
)

// The data of a small write can travel inside its journal record: then write and
// fsync are one flush of one file, and the next checkpoint puts the data beside its
// neighbours. Or it goes to a segment at once, as large writes do: then it is written
// once instead of twice, and no checkpoint has to move it, but the next flush is one
// of two files. So whoever flushes often gets the first, and whoever does not, the second.

const (
	// segmentThreshold is from how many bytes of whole pages on a write is large.
	segmentThreshold = 32 << 10
	// directFrom is how many bytes small writes of whole pages may have brought since
	// somebody asked for a flush before they go to segments.
	directFrom = 1 << 20
)

// dataLock serializes what changes the data mapping of one file, the migration of
// its small data included, so that a read-modify-write sees no change in between.
// Many inodes share one.
type dataLock struct {
	sync.Mutex
	end    uint64       // where the last write to one of them ended, in bytes
	writes atomic.Int64 // small ones since the last freeze
}

// direct reports whether the whole pages of a write go to a segment at once. The
// caller holds the data lock of the file.
func (v *Volume) direct(lock *dataLock, off, end uint64) bool {
	goesOn := off == 0 || off == lock.end
	lock.end = end
	first, stop := (off+pageSize-1)/pageSize, end/pageSize
	if stop > first && (stop-first)*pageSize >= segmentThreshold {
		return true
	}
	lock.writes.Add(1)
	switch {
	case stop <= first:
		return false
	case off != first*pageSize || end != stop*pageSize:
		return false // the rest of it would lie elsewhere
	case v.unflushed.Add(int64(end-off)) <= directFrom:
		return false
	}
	// Single pages one after the other, as stdio writes them, are better put
	// together to whole blocks.
	return first%writePages == 0 && stop%writePages == 0 || !goesOn
}
