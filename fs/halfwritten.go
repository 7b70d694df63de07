package fs

import (
	"cmp"
	"slices"
	"time"
)

// A write(2) puts its data into the kernel's cache before it sends a request: up
// to maxData, page by page, each readable at once. If it meets a page that a READ
// keeps locked it waits there, having sent nothing; and while that READ waits for
// the restore, so would what is readable before it. Nobody says when that
// happens, so while READs wait, what lies before them is taken out of the cache
// again and again.

const (
	// halfWrittenLook is how often. A file's lock lets one write(2) at a time get
	// that far, and none leaves.
	halfWrittenLook = 100 * time.Millisecond
	// halfWrittenWait is how long to wait for one invalidation. One that takes
	// longer has met a page of a READ that has not arrived yet.
	halfWrittenWait = 20 * time.Millisecond
)

// held is a request that waits.
type held struct {
	unique uint64
	opcode uint32
	pages  span // what it may keep locked; no node = nothing
}

func holding(m message) held {
	p, _ := m.pages()
	return held{unique: m.unique(), opcode: m.opcode(), pages: p}
}

// beforeReads returns the parts of files in which a write(2) may have stopped.
// None of them has a page that a request which waits here keeps locked.
func beforeReads(waiting map[uint64]held) (parts []span) {
	reads := make(map[uint64][]span)
	writes := make(map[uint64]bool) // these have their file's lock, and pages
	for _, h := range waiting {
		switch h.opcode {
		case opRead:
			reads[h.pages.node] = append(reads[h.pages.node], h.pages)
		case opWrite:
			writes[h.pages.node] = true
		}
	}
	for node, rs := range reads {
		if node == 0 || writes[node] {
			continue
		}
		slices.SortFunc(rs, func(a, b span) int { return cmp.Compare(a.offset, b.offset) })
		end := int64(0)
		for _, r := range rs {
			if from := max(end, r.offset-maxData); from < r.offset {
				parts = append(parts, span{node, from, r.offset - from})
			}
			end = max(end, r.offset+r.length)
		}
	}
	return parts
}

// dropHalfWritten runs from Hold to Stop.
func (a *Answerer) dropHalfWritten() {
	look := time.NewTicker(halfWrittenLook)
	defer look.Stop()
	stuck := make(map[span]<-chan struct{})
	for {
		select {
		case <-a.done:
			return
		case <-a.stop:
			return
		case <-look.C:
		}
		a.mu.Lock()
		parts := beforeReads(a.mu.waiting)
		a.mu.Unlock()
		for _, p := range parts {
			select {
			case <-stuck[p]: // closed, or nil and never ready
				delete(stuck, p)
			default:
			}
			if stuck[p] != nil {
				continue
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = invalidateSpan(int(a.dev.File.Fd()), p) // a node that is gone has no pages
			}()
			select {
			case <-done:
			case <-time.After(halfWrittenWait):
				stuck[p] = done
			}
		}
	}
}
