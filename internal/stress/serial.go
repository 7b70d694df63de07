package stress

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// place is a block of a file.
type place struct{ ino, block uint64 }

// change is one that a block was given between two readings of one counter.
type change struct{ tag, start, end uint64 }

// unknown is the end of a change that failed.
const unknown = 1 << 63

// serial remembers what was written where and when, and says which contents no
// serial order of the operations explains.
type serial struct {
	clock   atomic.Uint64
	mu      sync.Mutex
	changes map[place][]change
}

func (s *serial) now() uint64 { return s.clock.Add(1) }

// note adds a change that began at start and has been answered. Tag 0 means
// that the block is zeros from then on. One that failed may or may not have
// happened, at any time.
func (s *serial) note(p place, tag, start uint64, failed bool) {
	end := s.now()
	if failed {
		end = unknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes[p] = append(s.changes[p], change{tag, start, end})
}

// check wants a block's content to be that of a change which no other has
// followed, as far as the order of the two is known.
func (s *serial) check(p place, tag uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append([]change{{}}, s.changes[p]...)
	var last uint64 // the latest beginning of a change that surely happened
	for _, c := range all {
		if c.end != unknown {
			last = max(last, c.start)
		}
	}
	known := false
	for _, c := range all {
		if c.tag != tag {
			continue
		}
		known = true
		if c.end >= last {
			return nil
		}
	}
	if !known {
		return fmt.Errorf("block %d of inode %d has %#x, which was never written there", p.block, p.ino, tag)
	}
	return fmt.Errorf("block %d of inode %d has %#x, which was overwritten since", p.block, p.ino, tag)
}
