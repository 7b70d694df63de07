package meta

import (
	"cmp"
	"slices"
)

// unmapRegions is how many regions one operation unmaps at most, which bounds
// its journal record. Larger truncations are several operations, from the end
// of the file on.
const unmapRegions = 128

// unmap removes the mapping of pages [from, to) of an inode, starting at the
// end. It returns the page it came down to: from when done, more when the
// operation is large enough and the caller must go on with another.
func (t *tx) unmap(n *inode, from, to uint64) (down uint64, err error) {
	if n.pages == 0 || from >= to {
		return from, nil
	}
	regions, more, err := t.lastRegions(n, from, to)
	if err != nil {
		return 0, err
	}
	for _, r := range regions {
		start := r * regionPages
		lo, hi := max(from, start)-start, min(to, start+regionPages)-start
		if err := t.remap(n, r, int(lo), int(hi), nil); err != nil {
			return 0, err
		}
	}
	if more {
		return max(from, regions[len(regions)-1]*regionPages), nil
	}
	return from, nil
}

// lastRegions lists, in descending order, the last regions in [from, to) pages
// of a file that have anything mapped, and whether there are more before.
func (t *tx) lastRegions(n *inode, from, to uint64) (regions []uint64, more bool, err error) {
	add := func(r uint64) {
		if l := len(regions); l == 0 || regions[l-1] != r {
			regions = append(regions, r)
		}
	}
	if first := from / regionPages; to <= (first+1)*regionPages {
		return []uint64{first}, false, nil // no need to look
	}
	err = t.v.scan(key{tableRegion, n.ino, from / regionPages}, func(k key, _ []byte) bool {
		if k.b*regionPages >= to {
			return false
		}
		add(k.b)
		return true
	})
	if err == nil && n.inline > 0 {
		err = t.v.scan(key{tablePage, n.ino, from}, func(k key, _ []byte) bool {
			if k.b >= to {
				return false
			}
			add(k.b / regionPages)
			return true
		})
	}
	slices.SortFunc(regions, func(a, b uint64) int { return cmp.Compare(b, a) })
	regions = slices.Compact(regions)
	if len(regions) > unmapRegions {
		return regions[:unmapRegions], true, err
	}
	return regions, false, err
}

// setSize truncates or extends a file to size. A truncation that frees much is
// several operations, each a truncation to a smaller size: the last one carries
// the request. The caller holds the data lock.
func (v *Volume) setSize(c Caller, ino, size uint64, change func(t *tx, n *inode) error) (uint64, bool, error) {
	if size > maxFileSize {
		return 0, false, ErrTooBig
	}
	tail, err := v.tailOf(ino, size)
	if err != nil {
		return 0, false, err
	}
	for {
		more := false
		result, replayed, err := v.updateMaybe(c, &more, func(t *tx) error {
			n, err := t.inode(ino)
			if err != nil {
				return err
			}
			if n.isDir() {
				return ErrIsDir
			}
			if !n.isRegular() {
				return ErrInvalid
			}
			if size < n.size {
				keep := (size + pageSize - 1) / pageSize
				down, err := t.unmap(n, keep, (n.size+pageSize-1)/pageSize)
				if err != nil {
					return err
				}
				if down > keep {
					more = true
					n.size = down * pageSize
					n.mtime, n.ctime = t.now, t.now
					t.putInode(n)
					return nil
				}
				if err := t.cutTail(n, size, tail); err != nil {
					return err
				}
			}
			n.size = size
			n.mtime, n.ctime = t.now, t.now
			t.result = ino
			return change(t, n)
		})
		if err != nil || !more {
			return result, replayed, err
		}
	}
}

// updateMaybe is update for an operation that may find out that it is only a
// first part: then it is journalled without the request's number, so that the
// request itself is not taken for done.
func (v *Volume) updateMaybe(c Caller, more *bool, fn func(t *tx) error) (uint64, bool, error) {
	return v.update(c, func(t *tx) error {
		*more = false
		err := fn(t)
		if *more {
			t.c.Session = 0
		}
		return err
	})
}

// tailOf returns the content, in a segment, of the page a file would be cut in.
func (v *Volume) tailOf(ino, size uint64) ([]byte, error) {
	if size%pageSize == 0 {
		return nil, nil
	}
	return v.readPage(ino, size/pageSize)
}

// cutTail keeps the rule that a page holds zeros beyond the end of its file:
// the last page, if the cut goes through it, becomes small data of just the
// bytes that stay.
func (t *tx) cutTail(n *inode, size uint64, tail []byte) error {
	keep := int(size % pageSize)
	if keep == 0 {
		return nil
	}
	return t.cutPage(n, size/pageSize, keep, tail)
}

func (t *tx) cutPage(n *inode, page uint64, keep int, stored []byte) error {
	k := key{tablePage, n.ino, page}
	if n.inline > 0 {
		old, err := t.get(k)
		if err != nil {
			return err
		}
		if old != nil {
			if len(old) > keep {
				t.put(k, old[:keep:keep])
				t.inlined = n.ino
			}
			return nil
		}
	}
	if stored == nil {
		return nil
	}
	n.inline++
	t.inlined = n.ino
	t.put(k, stored[:keep:keep])
	return nil
}

// Fallocate implements fallocate(2): allocation (mode 0 or FallocKeepSize),
// FallocPunchHole and FallocZeroRange. Allocation reserves nothing, as on any
// copy-on-write volume: it checks that quota and host could take the range and
// extends the file.
func (v *Volume) Fallocate(c Caller, ino uint64, mode uint32, off, length int64) error {
	if off < 0 || length <= 0 {
		return ErrInvalid
	}
	if uint64(off)+uint64(length) > maxFileSize {
		return ErrTooBig
	}
	keep := mode&FallocKeepSize != 0
	switch mode &^ FallocKeepSize {
	case 0:
		return v.preallocate(c, ino, uint64(off), uint64(length), keep)
	case FallocPunchHole:
		if !keep {
			return ErrUnsupported
		}
		return v.zeroRange(c, ino, uint64(off), uint64(length), true)
	case FallocZeroRange:
		return v.zeroRange(c, ino, uint64(off), uint64(length), keep)
	}
	return ErrUnsupported
}

func (v *Volume) preallocate(c Caller, ino, off, length uint64, keepSize bool) error {
	if err := v.admit(int(min(length, 1<<50))); err != nil {
		return err
	}
	lock := v.dataLock(ino)
	lock.Lock()
	defer lock.Unlock()
	_, _, err := v.update(c, func(t *tx) error {
		n, err := t.inode(ino)
		if err != nil {
			return err
		}
		if !n.isRegular() {
			return ErrUnsupported
		}
		if err := v.checkQuota(int64(length / pageSize)); err != nil {
			return err
		}
		if !keepSize && off+length > n.size {
			n.size = off + length
			n.mtime = t.now
		}
		n.ctime = t.now
		if c.KillPriv {
			n.clearPriv(c)
		}
		t.putInode(n)
		return nil
	})
	return err
}

// zeroRange makes a range read as zeros: whole pages become holes, the parts
// of pages at its ends are overwritten.
func (v *Volume) zeroRange(c Caller, ino, off, length uint64, keepSize bool) error {
	if err := v.admit(0); err != nil {
		return err
	}
	lock := v.dataLock(ino)
	lock.Lock()
	defer lock.Unlock()
	end := off + length
	from, to := (off+pageSize-1)/pageSize, end/pageSize
	edges, err := v.zeroEdges(ino, off, end)
	if err != nil {
		return err
	}
	for {
		more := false
		_, _, err := v.updateMaybe(c, &more, func(t *tx) error {
			n, err := t.inode(ino)
			if err != nil {
				return err
			}
			if !n.isRegular() {
				return ErrUnsupported
			}
			n.mtime, n.ctime = t.now, t.now
			down, err := t.unmap(n, from, to)
			if err != nil {
				return err
			}
			if down > from && from < to {
				more, to = true, down
				t.putInode(n)
				return nil
			}
			for _, e := range edges {
				if err := t.zeroPart(n, e); err != nil {
					return err
				}
			}
			if !keepSize {
				n.size = max(n.size, end)
			}
			if c.KillPriv {
				n.clearPriv(c)
			}
			t.putInode(n)
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
}

// edge is a part of a page to be zeroed, and the page's content in a segment.
type edge struct {
	page   uint64
	from   int
	to     int
	stored []byte
}

func (v *Volume) zeroEdges(ino, off, end uint64) ([]edge, error) {
	var edges []edge
	add := func(page uint64, from, to int) error {
		stored, err := v.readPage(ino, page)
		edges = append(edges, edge{page, from, to, stored})
		return err
	}
	first, last := off/pageSize, end/pageSize
	if first == last {
		return edges, add(first, int(off%pageSize), int(end%pageSize))
	}
	if off%pageSize != 0 {
		if err := add(first, int(off%pageSize), pageSize); err != nil {
			return nil, err
		}
	}
	if end%pageSize != 0 {
		return edges, add(last, 0, int(end%pageSize))
	}
	return edges, nil
}

// zeroPart overwrites part of a page with zeros, if the page holds anything.
func (t *tx) zeroPart(n *inode, e edge) error {
	content := n.clip(e.page, e.stored)
	inline := false
	if n.inline > 0 {
		old, err := t.get(key{tablePage, n.ino, e.page})
		if err != nil {
			return err
		}
		if old != nil {
			content, inline = old, true
		}
	}
	if e.from >= len(content) {
		return nil
	}
	zeroed := slices.Clone(content)
	clear(zeroed[e.from:min(e.to, len(zeroed))])
	if !inline {
		n.inline++
	}
	t.inlined = n.ino
	t.put(key{tablePage, n.ino, e.page}, zeroed)
	return nil
}
