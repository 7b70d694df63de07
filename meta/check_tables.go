package meta

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

func (c *checker) readDirents() error {
	return c.table(tableDirent, func(k key, val []byte) error {
		ents, err := unmarshalDirents(val)
		if err != nil {
			return err
		}
		dir := c.inodes[k.a]
		if dir == nil || dir.mode&unix.S_IFMT != unix.S_IFDIR {
			c.found(FindNoInode, k.String(), "the directory does not exist")
			dir = &checkedInode{}
		}
		for _, e := range ents {
			dir.gotEntries++
			if c.v.keys.names.NameHash(k.a, e.name) != k.b {
				c.found(FindHash, k.String(), "an entry belongs under another hash")
			}
			n := c.inodes[e.ino]
			if n == nil {
				c.found(FindNoInode, k.String(), "inode %d does not exist", e.ino)
				continue
			}
			n.names++
			if n.mode&unix.S_IFMT != e.mode {
				c.found(FindType, k.String(), "the entry says type %o, inode %d is %o", e.mode, e.ino, n.mode&unix.S_IFMT)
			}
			if n.mode&unix.S_IFMT == unix.S_IFDIR {
				dir.subdirs++
				n.namedBy = k.a
				if n.parent != k.a {
					c.found(FindParent, fmt.Sprintf("inode %d", e.ino), "it names directory %d as its parent, its entry is in %d", n.parent, k.a)
				}
			}
		}
		return nil
	})
}

func (c *checker) readXattrs() error {
	return c.table(tableXattr, func(k key, val []byte) error {
		list, err := unmarshalXattrs(val)
		if err != nil {
			return err
		}
		if n := c.owner(k); n != nil {
			n.gotXattrs += uint32(len(list))
		}
		return nil
	})
}

// owner returns the inode a value belongs to.
func (c *checker) owner(k key) *checkedInode {
	n := c.inodes[k.a]
	if n == nil {
		c.found(FindNoInode, k.String(), "inode %d does not exist", k.a)
	}
	return n
}

func (c *checker) readPages() error {
	return c.table(tablePage, func(k key, val []byte) error {
		if len(val) > pageSize {
			return errShort
		}
		n := c.owner(k)
		if n == nil {
			return nil
		}
		n.gotInline++
		n.gotPages++
		if n.inlinePages == nil {
			n.inlinePages = make(map[uint64]struct{})
		}
		n.inlinePages[k.b] = struct{}{}
		if k.b*pageSize+uint64(len(val)) > n.size {
			n.end = max(n.end, k.b*pageSize+uint64(len(val)))
			c.found(FindBeyondEnd, k.String(), "small data ends behind byte %d", n.size)
		}
		return nil
	})
}

func (c *checker) readRegions() error {
	return c.table(tableRegion, func(k key, val []byte) error {
		ptrs, err := unmarshalRegion(val)
		if err != nil {
			return err
		}
		n := c.owner(k)
		if n == nil {
			return nil
		}
		for i := range ptrs {
			p := &ptrs[i]
			first := k.b*regionPages + uint64(p.page)
			for page := first; page < first+uint64(p.n); page++ {
				if _, shadowed := n.inlinePages[page]; !shadowed {
					n.gotPages++
				}
			}
			if (first+uint64(p.n)-1)*pageSize >= n.size {
				n.end = max(n.end, (first+uint64(p.n))*pageSize)
				c.found(FindBeyondEnd, k.String(), "page %d lies behind byte %d", first+uint64(p.n)-1, n.size)
			}
			b := c.blocks[p.block()]
			if b == nil {
				b = &checkedBlock{ptr: *p}
				c.blocks[p.block()] = b
			} else if b.ptr.tag != p.tag {
				c.found(FindOverlap, k.String(), "two tags for the block at page %d of segment %x", p.phys, p.seg)
			}
			b.refs++
		}
		return nil
	})
}

func (c *checker) readShared() error {
	return c.table(tableShared, func(k key, val []byte) error {
		extra, err := decodeCount(k, val)
		if err != nil {
			return errors.Unwrap(err)
		}
		c.shared[block{seg: k.a, phys: uint32(k.b)}] = extra
		return nil
	})
}

func (c *checker) readOrphans() error {
	return c.table(tableOrphan, func(k key, _ []byte) error {
		if n := c.owner(k); n != nil {
			n.orphan = true
		}
		return nil
	})
}

// compareInodes holds each inode against what was counted.
func (c *checker) compareInodes() {
	for ino, n := range c.inodes {
		where := fmt.Sprintf("inode %d", ino)
		links, dir := n.names, n.mode&unix.S_IFMT == unix.S_IFDIR
		switch {
		case ino == RootIno:
			links = 2 + n.subdirs
		case dir && n.names > 0:
			links = 2 + n.subdirs
			if n.names > 1 {
				c.found(FindLinks, where, "a directory with %d entries that lead to it", n.names)
			}
		}
		switch {
		case n.orphan && links > 0:
			c.found(FindLinks, where, "it is marked as unlinked and has %d names", n.names)
		case !n.orphan && links == 0:
			c.found(FindNoEntry, where, "no directory entry leads to it")
		}
		if n.nlink != links {
			c.found(FindLinks, where, "link count %d, should be %d", n.nlink, links)
		}
		if n.entries != n.gotEntries {
			c.found(FindEntries, where, "%d entries, should be %d", n.entries, n.gotEntries)
		}
		if n.pages != n.gotPages {
			c.found(FindPages, where, "%d mapped pages, should be %d", n.pages, n.gotPages)
		}
		if n.inline != n.gotInline {
			c.found(FindInline, where, "%d pages of small data, should be %d", n.inline, n.gotInline)
		}
		if n.xattrs != n.gotXattrs {
			c.found(FindXattrs, where, "%d extended attributes, should be %d", n.xattrs, n.gotXattrs)
		}
	}
}

// compareReach finds directories that hang together without the root.
func (c *checker) compareReach() {
	for ino, n := range c.inodes {
		if n.mode&unix.S_IFMT != unix.S_IFDIR || n.names == 0 {
			continue
		}
		var path []*checkedInode
		at, reachable := n, false
		for steps := 0; steps <= len(c.inodes); steps++ {
			if at.reachKnown {
				reachable = at.reachable
				break
			}
			path = append(path, at)
			if at == c.inodes[RootIno] || at.namedBy == RootIno {
				reachable = true
				break
			}
			if at = c.inodes[at.namedBy]; at == nil {
				break
			}
		}
		for _, p := range path {
			p.reachable, p.reachKnown = reachable, true
		}
		if !reachable {
			c.found(FindUnreachable, fmt.Sprintf("inode %d", ino), "the directory is not below the root")
		}
	}
}

// compareBlocks holds references, places and live counts against each other.
func (c *checker) compareBlocks() {
	live := make(map[uint64]int64)
	sorted := make([]block, 0, len(c.blocks))
	for b, got := range c.blocks {
		sorted = append(sorted, b)
		live[b.seg] += int64(b.blk)
		k := block{seg: b.seg, phys: b.phys}
		if c.shared[k] != got.refs-1 {
			c.found(FindReferences, blockWhere(b), "%d further references are recorded, should be %d", c.shared[k], got.refs-1)
		}
		delete(c.shared, k)
	}
	for b, extra := range c.shared {
		c.found(FindReferences, blockWhere(b), "%d further references to a block nothing refers to", extra)
	}
	slices.SortFunc(sorted, func(a, b block) int {
		return cmp.Or(cmp.Compare(a.seg, b.seg), cmp.Compare(a.phys, b.phys))
	})
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; a.seg == b.seg && a.phys+a.blk > b.phys {
			c.found(FindOverlap, blockWhere(b), "it overlaps the block before")
		}
	}
	for id, n := range live {
		if c.v.space.live[id] != n {
			c.found(FindLive, segmentName(id), "%d live pages are recorded, should be %d", c.v.space.live[id], n)
		}
		c.checkSegment(id, sorted)
	}
	for id, n := range c.v.space.live {
		if _, ok := live[id]; !ok && n != 0 {
			c.found(FindLive, segmentName(id), "%d live pages are recorded, should be 0", n)
		}
	}
}

func blockWhere(b block) string { return fmt.Sprintf("%s page %d", segmentName(b.seg), b.phys) }

// checkSegment looks whether a segment is there and long enough.
func (c *checker) checkSegment(id uint64, sorted []block) {
	if id >= c.v.segments.nextID() {
		c.found(FindNumber, segmentName(id), "the number is still to be given")
	}
	seg, err := c.v.segments.get(id)
	if err != nil {
		c.found(FindSegment, segmentName(id), "%v", err)
		return
	}
	size, err := seg.file.Size()
	if err != nil {
		c.found(FindSegment, segmentName(id), "%v", err)
		return
	}
	i, _ := slices.BinarySearchFunc(sorted, id+1, func(b block, next uint64) int { return cmp.Compare(b.seg, next) })
	if last := sorted[i-1]; int64(last.phys+last.blk)*pageSize > size {
		c.found(FindSegment, segmentName(id), "it has %d bytes; blocks reach to byte %d", size, int64(last.phys+last.blk)*pageSize)
	}
}

// compareTotals holds the volume's totals against the sums.
func (c *checker) compareTotals() {
	var pages uint64
	for _, n := range c.inodes {
		pages += n.gotPages
	}
	if c.v.usedPages != pages {
		c.found(FindTotals, "volume", "%d pages in use are recorded, should be %d", c.v.usedPages, pages)
	}
	if c.v.files != uint64(len(c.inodes)) {
		c.found(FindTotals, "volume", "%d inodes are recorded, should be %d", c.v.files, len(c.inodes))
	}
}

// scrub decrypts every block.
func (c *checker) scrub() error {
	p := progress{fn: c.opt.Progress}
	sorted := make([]*checkedBlock, 0, len(c.blocks))
	for _, b := range c.blocks {
		p.total += int64(b.ptr.blk)
		sorted = append(sorted, b)
	}
	slices.SortFunc(sorted, func(a, b *checkedBlock) int {
		return cmp.Or(cmp.Compare(a.ptr.seg, b.ptr.seg), cmp.Compare(a.ptr.phys, b.ptr.phys))
	})
	scratch := make([]byte, blockPages*pageSize+tagSize)
	for _, b := range sorted {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if _, err := c.v.segments.readBlock(&b.ptr, scratch); err != nil {
			c.found(FindBlock, blockWhere(b.ptr.block()), "%v", err)
		}
		p.add(int64(b.ptr.blk))
	}
	return nil
}
