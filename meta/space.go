package meta

import (
	"cmp"
	"slices"
	"sync"
)

// space keeps which blocks of which segment are alive, and gives the host
// space of dead ones back once the operation that killed them is durable:
// after any crash the recovered volume has forgotten them too. The state lock
// guards live and changed; frees has a lock of its own.
type space struct {
	live    map[uint64]int64    // segment → live pages
	changed map[uint64]struct{} // segments whose count the index does not have

	frees struct {
		sync.Mutex
		queue []freedBlocks // in order of seq
	}
}

type freedBlocks struct {
	seq    uint64
	blocks []block
}

func newSpace() *space {
	return &space{live: make(map[uint64]int64), changed: make(map[uint64]struct{})}
}

// account books what an operation allocated and freed.
func (s *space) account(op *operation) {
	for _, b := range op.alloc {
		s.live[b.seg] += int64(b.blk)
		s.changed[b.seg] = struct{}{}
	}
	for _, b := range op.freed {
		s.live[b.seg] -= int64(b.blk)
		s.changed[b.seg] = struct{}{}
	}
	if len(op.freed) > 0 {
		s.frees.Lock()
		s.frees.queue = append(s.frees.queue, freedBlocks{op.seq, op.freed})
		s.frees.Unlock()
	}
}

// take removes from the queue what operations up to seq freed.
func (s *space) take(seq uint64) []block {
	s.frees.Lock()
	defer s.frees.Unlock()
	var out []block
	n := 0
	for n < len(s.frees.queue) && s.frees.queue[n].seq <= seq {
		out = append(out, s.frees.queue[n].blocks...)
		n++
	}
	s.frees.queue = slices.Clone(s.frees.queue[n:])
	return out
}

// reclaim gives dead space back to the host. The caller holds v.reclaimMu, and
// everything up to seq is durable. Flushes go on meanwhile, since there may be
// thousands of holes to punch, but none while a segment is removed. A crash in
// between leaks nothing: recovery punches again what the journal's remaining
// operations freed, and the journal is released only after this.
func (v *Volume) reclaim(seq uint64) error {
	dead := v.space.take(seq)
	if len(dead) == 0 {
		return nil
	}
	slices.SortFunc(dead, func(a, b block) int {
		return cmp.Or(cmp.Compare(a.seg, b.seg), cmp.Compare(a.phys, b.phys))
	})
	empty := make(map[uint64]bool)
	for _, b := range dead {
		if _, known := empty[b.seg]; !known {
			empty[b.seg] = v.emptySegment(b.seg)
		}
	}
	for i := 0; i < len(dead); {
		first := dead[i]
		end := first.phys + first.blk
		for i++; i < len(dead) && dead[i].seg == first.seg && dead[i].phys <= end; i++ {
			end = max(end, dead[i].phys+dead[i].blk)
		}
		if empty[first.seg] {
			continue
		}
		seg, err := v.segments.get(first.seg)
		if err != nil {
			return err
		}
		if err := seg.file.PunchHole(int64(first.phys)*pageSize, int64(end-first.phys)*pageSize); err != nil {
			return err
		}
	}
	for id, gone := range empty {
		if gone {
			v.syncMu.Lock()
			err := v.segments.remove(id)
			v.syncMu.Unlock()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// emptySegment reports whether nothing in a segment is or can become alive. What
// an operation freed that is not durable yet becomes alive again if a crash of
// the host takes the operation.
func (v *Volume) emptySegment(id uint64) bool {
	if v.segments.busy(id) { // before the look at live: see busy
		return false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.space.live[id] == 0 && !v.freedBySomeone(id)
}

// freedBySomeone reports whether operations that are not durable yet freed
// blocks of a segment.
func (v *Volume) freedBySomeone(id uint64) bool {
	v.space.frees.Lock()
	defer v.space.frees.Unlock()
	for _, f := range v.space.frees.queue {
		for _, b := range f.blocks {
			if b.seg == id {
				return true
			}
		}
	}
	return false
}

// shared is where the number of references to a block beyond the first is stored.
func (b block) shared() key { return key{tableShared, b.seg, uint64(b.phys)} }

// references returns how many references a block has beyond the first, and where
// their number is stored.
func (t *tx) references(b block) (k key, extra uint64, err error) {
	k = b.shared()
	if !t.v.sharing && !t.sharing {
		return k, 0, nil
	}
	val, err := t.get(k)
	if err != nil {
		return k, 0, err
	}
	extra, err = decodeCount(k, val)
	return k, extra, err
}

// unref drops one reference to a block; the last one frees it.
func (t *tx) unref(b block) error {
	k, extra, err := t.references(b)
	if err != nil {
		return err
	}
	switch extra {
	case 0:
		t.freed = append(t.freed, b)
	case 1:
		t.del(k)
	default:
		t.put(k, encodeCount(extra-1))
	}
	return nil
}

// ref adds a reference to a block.
func (t *tx) ref(b block) error {
	k, extra, err := t.references(b)
	if err != nil {
		return err
	}
	t.sharing = true
	t.put(k, encodeCount(extra+1))
	return nil
}

// splice replaces the mapping of a range of a region and keeps the reference
// counts. It returns how many pages had a mapping.
func (t *tx) splice(ino, region uint64, from, to int, add []pointer) (mapped int, err error) {
	old, err := t.region(ino, region)
	if err != nil {
		return 0, err
	}
	out, dropped, split, mapped := splice(old, from, to, add)
	if mapped == 0 && len(add) == 0 {
		return 0, nil
	}
	for _, b := range split {
		if err := t.ref(b); err != nil {
			return 0, err
		}
	}
	for _, b := range dropped {
		if err := t.unref(b); err != nil {
			return 0, err
		}
	}
	t.putRegion(ino, region, out)
	return mapped, nil
}
