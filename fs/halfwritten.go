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
// again and again. So is what a WRITE that waits has filled: taking it out at
// once, when it arrived, may have met a READ of some of its pages.

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
	read   span // what a READ keeps locked; no node = nothing
	filled span // what a WRITE has filled
	write  bool // it is a WRITE of cached pages, which has its file's lock
}

func holding(m message) held {
	h := held{unique: m.unique()}
	p, pages := m.pages()
	switch {
	case pages && m.opcode() == opRead:
		h.read = p
	case pages && m.opcode() == opWrite:
		h.write = true
		h.filled, _ = m.filled()
		h.filled.node = p.node
	}
	return h
}

// exposed returns the parts of files which write(2)s may have filled that wait.
// None has a page that a request which waits here keeps locked.
func exposed(waiting map[uint64]held) (parts []span) {
	type file struct{ reads, writes []span }
	files := make(map[uint64]*file)
	of := func(node uint64) *file {
		if files[node] == nil {
			files[node] = &file{}
		}
		return files[node]
	}
	for _, h := range waiting {
		switch {
		case h.read.node != 0:
			f := of(h.read.node)
			f.reads = append(f.reads, h.read)
		case h.write:
			f := of(h.filled.node)
			f.writes = append(f.writes, h.filled)
		}
	}
	for node, f := range files {
		slices.SortFunc(f.reads, func(a, b span) int { return cmp.Compare(a.offset, b.offset) })
		if len(f.writes) > 0 { // nobody else has stopped half way
			for _, w := range f.writes {
				parts = append(parts, without(w, f.reads)...)
			}
			continue
		}
		end := int64(0)
		for _, r := range f.reads {
			if from := max(end, r.offset-maxData); from < r.offset {
				parts = append(parts, span{node, from, r.offset - from})
			}
			end = max(end, r.offset+r.length)
		}
	}
	return parts
}

// without returns what is left of p without some parts, which are in order.
func without(p span, parts []span) (rest []span) {
	for _, r := range parts {
		if end := min(r.offset, p.offset+p.length); p.offset < end {
			rest = append(rest, span{p.node, p.offset, end - p.offset})
		}
		if next := r.offset + r.length; next > p.offset {
			p.length -= next - p.offset
			p.offset = next
		}
		if p.length <= 0 {
			return rest
		}
	}
	if p.length <= 0 { // nothing, where 0 would be everything
		return rest
	}
	return append(rest, p)
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
		parts := exposed(a.mu.waiting)
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
