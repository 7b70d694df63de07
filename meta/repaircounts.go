package meta

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// lostFound is where inodes go that no name leads to.
const lostFound = "lost+found"

// reconnect gives inodes that no name leads to one in /lost+found: #NUMBER.
func (r *repairer) reconnect() error {
	for {
		c, err := r.look()
		if err != nil {
			return err
		}
		var loose []uint64
		for ino, n := range c.inodes {
			dir := n.mode&unix.S_IFMT == unix.S_IFDIR
			switch {
			case ino == RootIno:
			case n.names == 0 && (!n.orphan || dir):
				loose = append(loose, ino)
			case dir && n.names > 0 && !n.reachable && len(loose) == 0:
				// Directories in a circle: one of them is taken out of it.
				loose = append(loose, ino)
			}
		}
		if len(loose) == 0 {
			return nil
		}
		slices.Sort(loose)
		home, err := r.lostFound()
		if err != nil {
			return err
		}
		for _, ino := range loose {
			n := c.inodes[ino]
			if n.names > 0 {
				if err := r.leave(n.namedBy, ino); err != nil {
					return err
				}
			}
			name := fmt.Sprintf("#%d", ino)
			if err := r.enter(home, dirent{ino: ino, mode: n.mode & unix.S_IFMT, name: name}); err != nil {
				return err
			}
			r.v.put(key{tableOrphan, ino, 0}, nil)
			r.done(fmt.Sprintf("inode %d", ino), "no name led to it: it is /%s/%s now", lostFound, name)
		}
	}
}

// leave removes the entries of a directory that lead to an inode.
func (r *repairer) leave(dir, ino uint64) error {
	changed := make(map[key][]dirent)
	err := r.v.scan(key{tableDirent, dir, 0}, func(k key, val []byte) bool {
		if ents, err := unmarshalDirents(val); err == nil && slices.ContainsFunc(ents, func(e dirent) bool { return e.ino == ino }) {
			changed[k] = slices.DeleteFunc(ents, func(e dirent) bool { return e.ino == ino })
		}
		return true
	})
	for k, ents := range changed {
		r.putEntries(k, ents)
	}
	return err
}

// lostFound returns the directory, which it makes if need be.
func (r *repairer) lostFound() (uint64, error) {
	name := lostFound
	for i := 1; ; i++ {
		k := r.v.direntKey(RootIno, name)
		val, err := r.v.get(k)
		if err != nil {
			return 0, err
		}
		e, err := findDirent(k, val, name)
		if errors.Is(err, ErrNotFound) {
			break
		}
		if err != nil {
			return 0, err
		}
		if e.mode == unix.S_IFDIR {
			return e.ino, nil
		}
		name = fmt.Sprintf("%s.%d", lostFound, i) // a file has the name
	}
	now := r.now()
	n := &inode{ino: r.v.nextIno, mode: unix.S_IFDIR | 0o700, nlink: 2, size: pageSize, parent: RootIno, atime: now, mtime: now, ctime: now, btime: now}
	r.v.nextIno++
	r.v.put(key{tableInode, n.ino, 0}, n.marshal())
	return n.ino, r.enter(RootIno, dirent{ino: n.ino, mode: unix.S_IFDIR, name: name})
}

// addNames says which files the losses are in: one name of each.
func (r *repairer) addNames() error {
	type entry struct {
		dir  uint64
		name string
	}
	names := make(map[uint64]entry)
	if !slices.ContainsFunc(r.did, func(d Repaired) bool { return d.ino != 0 }) {
		return nil
	}
	err := r.scan(tableDirent, func(k key, val []byte) error {
		ents, err := unmarshalDirents(val)
		for _, e := range ents {
			names[e.ino] = entry{k.a, e.name}
		}
		return err
	})
	for i := range r.did {
		d := &r.did[i]
		path, ino := "", d.ino
		for steps := 0; ino > RootIno && names[ino].dir != 0 && steps < 1000; steps++ {
			path, ino = "/"+names[ino].name+path, names[ino].dir
		}
		if path != "" {
			d.Where = fmt.Sprintf("%s (%q)", d.Where, path)
		}
	}
	return err
}

// fixCounts computes anew whatever counts something else.
func (r *repairer) fixCounts() error {
	c, err := r.look()
	if err != nil {
		return err
	}
	var pages uint64
	for _, ino := range slices.Sorted(maps.Keys(c.inodes)) {
		got := c.inodes[ino]
		pages += got.gotPages
		if err := r.fixInode(ino, got); err != nil {
			return err
		}
	}
	r.fixBlocks(c)
	if r.v.usedPages != pages {
		r.done("volume", "%d pages in use instead of %d", pages, r.v.usedPages)
		r.v.usedPages = pages
	}
	if files := uint64(len(c.inodes)); r.v.files != files {
		r.done("volume", "%d inodes instead of %d", files, r.v.files)
		r.v.files = files
	}
	return nil
}

// fixInode corrects what an inode says about others.
func (r *repairer) fixInode(ino uint64, got *checkedInode) error {
	n, err := r.v.inodeOf(ino)
	if err != nil {
		return err
	}
	was := n
	where := fmt.Sprintf("inode %d", ino)
	n.nlink, n.entries, n.pages, n.inline, n.xattrs = got.names, got.gotEntries, got.gotPages, got.gotInline, got.gotXattrs
	if n.isDir() {
		if ino == RootIno || got.names > 0 {
			n.nlink = 2 + got.subdirs
		}
		if ino == RootIno {
			n.parent = RootIno
		} else if got.names > 0 {
			n.parent = got.namedBy
		}
	}
	if got.orphan && got.names > 0 {
		r.v.put(key{tableOrphan, ino, 0}, nil)
		r.done(where, "it has a name and is not marked as unlinked any more")
	}
	if got.end > n.size && !n.isDir() {
		r.done(where, "it has %d bytes instead of %d, up to the last data there is", got.end, n.size)
		n.size = got.end
	}
	for _, f := range []struct {
		what     string
		from, to uint64
	}{
		{"links", uint64(was.nlink), uint64(n.nlink)}, {"entries", was.entries, n.entries}, {"mapped pages", was.pages, n.pages},
		{"pages of small data", uint64(was.inline), uint64(n.inline)}, {"extended attributes", uint64(was.xattrs), uint64(n.xattrs)},
	} {
		if f.from != f.to {
			r.done(where, "%d %s instead of %d", f.to, f.what, f.from)
		}
	}
	if was.parent != n.parent {
		r.done(where, "its parent is directory %d instead of %d", n.parent, was.parent)
	}
	val := n.marshal()
	if old := was.marshal(); string(old) != string(val) {
		r.v.put(key{tableInode, ino, 0}, val)
	}
	return nil
}

// fixBlocks corrects the reference counts of blocks and the live pages of
// segments.
func (r *repairer) fixBlocks(c *checker) {
	live := make(map[uint64]int64)
	put := func(b block, from, to uint64) {
		if from == to {
			return
		}
		k := b.shared()
		if to == 0 {
			r.v.put(k, nil)
		} else {
			r.v.put(k, encodeCount(to))
		}
		r.done(blockWhere(b), "%d further references instead of %d", to, from)
	}
	blocks := slices.SortedFunc(maps.Keys(c.blocks), func(a, b block) int {
		return cmp.Or(cmp.Compare(a.seg, b.seg), cmp.Compare(a.phys, b.phys))
	})
	for _, b := range blocks {
		live[b.seg] += int64(b.blk)
		k := block{seg: b.seg, phys: b.phys}
		put(b, c.shared[k], c.blocks[b].refs-1)
		delete(c.shared, k)
	}
	for b, extra := range c.shared {
		put(b, extra, 0)
	}
	for id := range r.v.space.live {
		if _, ok := live[id]; !ok {
			live[id] = 0
		}
	}
	for _, id := range slices.Sorted(maps.Keys(live)) {
		n := live[id]
		if r.v.space.live[id] != n {
			r.done(segmentName(id), "%d live pages instead of %d", n, r.v.space.live[id])
		}
		k := key{tableSegment, id, 0}
		if r.v.space.live[id] = n; n == 0 {
			r.v.put(k, nil)
			delete(r.v.space.live, id)
		} else {
			r.v.put(k, encodeCount(uint64(n)))
		}
	}
}
