package meta

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What was overwritten at random lies where the segments ended at the time, and who
// reads it one after the other waits for the disk once for each piece. So what lies in
// many pieces is written anew, side by side, when nobody has written to it for a
// while: as ordinary journalled operations, as in a migration.

const (
	// chunkPages is how many pages of a file are put together at a time: 1 MiB.
	chunkPages = 256
	// mostPieces is in how many pieces a chunk is left. In more, they are smaller than
	// what a read of the disk brings in any case.
	mostPieces = chunkPages * pageSize / neighbours
	// mostTorn bounds the chunks that are remembered, some MiB. What is forgotten is
	// noticed again when somebody reads it.
	mostTorn = 1 << 16

	// gatherBatch is how many chunks are put together before the host gets the space
	// back that they had: so much more is in use meanwhile.
	gatherBatch = 64

	// gatherInterval is how long a round of the gatherer takes, and the others are
	// counted in rounds.
	gatherInterval = time.Second
	// idleRounds is how long nobody must have used the volume before all that is torn
	// is put together, as long as that goes on.
	idleRounds = 5
	// quietRounds is how long nobody must have written to a chunk before it is put
	// together although the volume is in use. Then it is one in a round, so that
	// nobody notices.
	quietRounds = 30
)

// chunk is a part of a file, by its number.
type chunk struct{ ino, index uint64 }

func (a chunk) compare(b chunk) int {
	return cmp.Or(cmp.Compare(a.ino, b.ino), cmp.Compare(a.index, b.index))
}

// torn has the chunks that may lie in many pieces. It is in memory only.
type torn struct {
	used atomic.Bool // somebody has used the volume since the last round

	mu     sync.Mutex // guards what follows
	round  uint32
	chunks map[chunk]uint32 // with the round of the last write

	gathering sync.Mutex // one round at a time; guards what follows
	idle      uint32     // rounds since somebody used the volume
	todo      []chunk    // taken from chunks, in the order in which they shall lie
}

// use notes that somebody uses the volume.
func (t *torn) use() {
	if !t.used.Load() { // so that processors need not fight for it
		t.used.Store(true)
	}
}

// written notes small pieces that were written.
func (t *torn) written(chunks []chunk) {
	if len(chunks) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range chunks {
		if _, known := t.chunks[c]; known || len(t.chunks) < mostTorn {
			t.chunks[c] = t.round
		}
	}
}

// read notes a chunk that somebody met in many pieces. Who wrote it is long gone, as
// far as is known.
func (t *torn) read(c chunk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.chunks[c]; !known && len(t.chunks) < mostTorn {
		t.chunks[c] = t.round - quietRounds
	}
}

// whole says that a chunk is in one piece, whatever was noted of how it became so.
// The caller holds the data lock of the file.
func (t *torn) whole(c chunk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.chunks, c)
}

// take moves the chunks to which nobody has written for some rounds to todo. The
// caller holds gathering.
func (t *torn) take(rounds uint32) {
	t.mu.Lock()
	for c, round := range t.chunks {
		if t.round-round >= rounds && len(t.todo) < mostTorn {
			t.todo = append(t.todo, c)
			delete(t.chunks, c)
		}
	}
	t.mu.Unlock() // operations wait for it, so nothing is sorted before
	slices.SortFunc(t.todo, chunk.compare)
	t.todo = slices.Compact(t.todo)
}

// quiet reports whether nobody has written to a chunk lately.
func (t *torn) quiet(c chunk) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	round, known := t.chunks[c]
	return !known || t.round-round >= quietRounds
}

// gatherer puts together what lies in pieces until ctx ends.
func (v *Volume) gatherer(ctx context.Context) {
	tick := time.NewTicker(gatherInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.failed:
			return
		case <-tick.C:
			v.torn.gathering.Lock()
			v.gatherRound(ctx)
			v.torn.gathering.Unlock()
		}
	}
}

// gatherRound is what the gatherer does once in gatherInterval. The caller holds
// torn.gathering.
func (v *Volume) gatherRound(ctx context.Context) {
	t := &v.torn
	t.mu.Lock()
	t.round++
	t.mu.Unlock()
	t.idle++
	if t.used.Swap(false) {
		t.idle = 0
	}
	idle := t.idle >= idleRounds
	if idle {
		t.take(0)
	} else if len(t.todo) == 0 {
		t.take(quietRounds)
	}
	for n := 0; len(t.todo) > 0 && (n == 0 || idle && !t.used.Load()); t.todo = t.todo[1:] {
		c := t.todo[0]
		if !t.quiet(c) { // and so it is noted again
			continue
		}
		if ctx.Err() != nil || v.crowded(dueSlots+1, changesDue) || n%gatherBatch == 0 && !v.gatherRoom(n > 0) {
			return
		}
		err := v.gather(c, mostPieces)
		if errors.Is(err, ErrNoSpace) || v.stopped() != nil {
			return
		}
		if err != nil {
			// Who reads it is told the same, and check says where.
			v.log.Warn("pieces of a file could not be put together", "inode", c.ino, "err", err)
		}
		n++
	}
}

// gatherRoom reports whether the host has room for the next chunks and for what
// programs write meanwhile. With reclaim, it gets back first what the last ones had.
func (v *Volume) gatherRoom(reclaim bool) bool {
	if reclaim {
		if v.flush() != nil {
			return false // fail has said why
		}
		v.reclaimSynced()
	}
	free, err := v.st.Free()
	return err == nil && free >= hostReserve+2*gatherBatch*chunkPages*pageSize
}

// gather puts a chunk together, if it is in more than most pieces and they are its
// own. Nobody has to wait for the disk meanwhile: what was read before the lock is
// taken is still right if it still lies at the same places.
func (v *Volume) gather(c chunk, most int) error {
	p, err := v.planChunk(c)
	if err != nil || pieces(p.ptrs) <= most {
		return err
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	first := c.index * chunkPages
	last := &p.ptrs[len(p.ptrs)-1]
	content := (*buf)[:(last.page+uint64(last.n)-first)*pageSize]
	failed := v.fill(&p, content, first*pageSize)
	lock := v.dataLock(c.ino)
	lock.Lock()
	defer lock.Unlock()
	if now, err := v.planChunk(c); err != nil || !slices.Equal(p.ptrs, now.ptrs) {
		return err // who wrote has noted the chunk again
	}
	if failed != nil { // not because the blocks have been punched meanwhile
		return failed
	}
	var pages []uint64
	data := content[:0]
	for i := range p.ptrs {
		for page := p.ptrs[i].page; page < p.ptrs[i].page+uint64(p.ptrs[i].n); page++ {
			pages = append(pages, page)
			data = append(data, content[(page-first)*pageSize:][:pageSize]...) // never ahead of what is still to be copied
		}
	}
	if err := v.migratePages(c.ino, pages, data); err != nil {
		return err
	}
	v.torn.whole(c)
	return nil
}

// planChunk looks up where a chunk is. There is nothing if the file is gone or will be, if
// a migration will move some of it, or if others share some of its blocks: these
// would then take their space twice.
func (v *Volume) planChunk(c chunk) (p readPlan, err error) {
	err = v.view(func() error {
		n, err := v.inodeOf(c.ino)
		if errors.Is(err, ErrStale) {
			return nil
		}
		from := c.index * chunkPages
		to := min(from+chunkPages, (n.size+pageSize-1)/pageSize)
		if err != nil || !n.isRegular() || n.nlink == 0 || from >= to {
			return err
		}
		if p, err = v.plan(nil, &n, from, to); err != nil {
			return err
		}
		whole := len(p.inline) == 0
		for i := 0; v.sharing && whole && i < len(p.ptrs); i++ {
			var shared []byte
			if shared, err = v.get(p.ptrs[i].block().shared()); err != nil {
				return err
			}
			whole = shared == nil
		}
		if !whole {
			p = readPlan{}
		}
		return nil
	})
	return p, err
}

// pieces is in how many pieces blocks lie.
func pieces(ptrs []located) (n int) {
	for i := 0; i < len(ptrs); i = runEnd(ptrs, i) {
		n++
	}
	return n
}
