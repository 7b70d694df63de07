package meta

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// decodeValue says what is wrong with a value of any table.
func decodeValue(k key, val []byte) (err error) {
	switch k.t {
	case tableInode:
		_, err = unmarshalInode(k.a, val)
	case tableDirent:
		_, err = unmarshalDirents(val)
	case tableXattr:
		_, err = unmarshalXattrs(val)
	case tableRegion:
		_, err = unmarshalRegion(val)
	case tablePage:
		if len(val) > pageSize {
			err = errShort
		}
	default:
		_, err = decodeCount(k, val)
	}
	return err
}

// dropValues removes values that do not open or are malformed.
func (r *repairer) dropValues() error {
	var bad []key
	for t := tableInode; t <= tableMax; t++ {
		err := r.v.index.forEach(t, func(k key, sealed []byte) error {
			if _, newer := r.v.active.get(k); newer {
				return r.ctx.Err()
			}
			val, err := r.v.index.unseal(k, sealed)
			if err == nil {
				err = decodeValue(k, val)
			}
			if err != nil {
				bad = append(bad, k)
			}
			return r.ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	if len(bad) > 0 && !r.opt.Excise {
		return fmt.Errorf("%w: %d values of the index, %s is the first", ErrNeedsExcise, len(bad), bad[0])
	}
	for _, k := range bad {
		r.v.put(k, nil)
		r.lost(k.String(), "a value that cannot be read is removed")
	}
	return nil
}

// dropBlocks turns file data that cannot be read into holes.
func (r *repairer) dropBlocks() error {
	if !r.opt.Excise {
		return nil
	}
	scratch := make([]byte, blockPages*pageSize+tagSize)
	broken := make(map[pointer]bool) // by block and tag, whatever pages are mapped
	changed := make(map[key][]pointer)
	p := progress{fn: r.opt.Progress}
	for _, n := range r.v.space.live {
		p.total += n
	}
	err := r.scan(tableRegion, func(k key, val []byte) error {
		ptrs, err := unmarshalRegion(val)
		if err != nil {
			return err
		}
		keep := ptrs[:0]
		for _, ptr := range ptrs {
			id := ptr
			id.page, id.n, id.skip = 0, 0, 0
			bad, known := broken[id]
			if !known {
				_, err := r.v.segments.readBlock(&ptr, scratch)
				var corrupt *CorruptError
				if bad = errors.As(err, &corrupt); err != nil && !bad {
					return err // the disk may read it another time
				}
				broken[id] = bad
				p.add(int64(ptr.blk))
			}
			if !bad {
				keep = append(keep, ptr)
				continue
			}
			from := (k.b*regionPages + uint64(ptr.page)) * pageSize
			r.lostOf(k.a, "bytes %d to %d cannot be read (%s): zeros from now on", from, from+uint64(ptr.n)*pageSize-1, blockWhere(ptr.block()))
		}
		if len(keep) < len(ptrs) {
			changed[k] = slices.Clone(keep)
		}
		return nil
	})
	for k, ptrs := range changed {
		if len(ptrs) == 0 {
			r.v.put(k, nil)
		} else {
			r.v.put(k, marshalRegion(ptrs))
		}
	}
	return err
}

// scan calls fn for the effective values of a table.
func (r *repairer) scan(t table, fn func(k key, val []byte) error) error {
	var failed error
	err := r.v.scanSpan(span{from: key{t: t}, table: true}, func(k key, val []byte) bool {
		if failed = fn(k, val); failed == nil {
			failed = r.ctx.Err()
		}
		return failed == nil
	})
	return errors.Join(failed, err)
}

// recreateInodes makes inodes anew that something belongs to and that are gone:
// a directory if it has entries, a regular file if it has data.
func (r *repairer) recreateInodes() error {
	c, err := r.look()
	if err != nil {
		return err
	}
	for ino := range c.inodes {
		r.v.nextIno = max(r.v.nextIno, ino+1)
	}
	ends := make(map[uint64]uint64) // of the data of inodes that are gone
	dirs := make(map[uint64]bool)
	var drop []key
	for _, t := range []table{tableDirent, tableXattr, tableRegion, tablePage, tableOrphan} {
		err := r.scan(t, func(k key, val []byte) error {
			if c.inodes[k.a] != nil {
				return nil
			}
			end := uint64(0)
			switch t {
			case tableDirent:
				dirs[k.a] = true
			case tableRegion:
				ptrs, err := unmarshalRegion(val)
				if err != nil || len(ptrs) == 0 {
					return err
				}
				end = (k.b*regionPages + uint64(ptrs[len(ptrs)-1].end())) * pageSize
			case tablePage:
				end = k.b*pageSize + uint64(len(val))
			default:
				if _, more := ends[k.a]; !more && !dirs[k.a] {
					drop = append(drop, k) // an attribute alone makes no file
				}
				return nil
			}
			ends[k.a] = max(ends[k.a], end)
			return nil
		})
		if err != nil {
			return err
		}
	}
	now := r.now()
	for ino, end := range ends {
		n := &inode{ino: ino, mode: unix.S_IFREG | 0o600, size: end, atime: now, mtime: now, ctime: now, btime: now}
		if dirs[ino] {
			n.mode, n.size = unix.S_IFDIR|0o700, pageSize
		}
		r.v.put(key{tableInode, ino, 0}, n.marshal())
		r.v.nextIno = max(r.v.nextIno, ino+1)
		r.lostOf(ino, "owner, permissions, times and exact size are gone; root's, 0600 or 0700, up to the last data there is (%d bytes)", n.size)
	}
	for _, k := range drop {
		r.v.put(k, nil)
		if _, again := ends[k.a]; !again {
			r.lost(k.String(), "it belongs to no inode: removed")
		}
	}
	return nil
}

// fixEntries removes entries that lead nowhere and corrects the others.
func (r *repairer) fixEntries() error {
	c, err := r.look()
	if err != nil {
		return err
	}
	if c.inodes[RootIno] == nil {
		now := r.now()
		n := &inode{ino: RootIno, mode: unix.S_IFDIR | 0o755, nlink: 2, size: pageSize, parent: RootIno, atime: now, mtime: now, ctime: now, btime: now}
		r.v.put(key{tableInode, RootIno, 0}, n.marshal())
		c.inodes[RootIno] = &checkedInode{mode: n.mode}
		r.lost("inode 1", "the root directory is made anew")
	}
	named := make(map[uint64]bool) // directories that have an entry
	var moved []dirent
	var from []uint64
	err = r.scan(tableDirent, func(k key, val []byte) error {
		ents, err := unmarshalDirents(val)
		if err != nil {
			return err
		}
		keep := ents[:0:0]
		changed := false
		for _, e := range ents {
			where := fmt.Sprintf("directory %d", k.a)
			n := c.inodes[e.ino]
			switch {
			case n == nil:
				r.lost(where, "%q is gone: its inode %d cannot be read and it has no data", e.name, e.ino)
				changed = true
				continue
			case n.mode&unix.S_IFMT == unix.S_IFDIR && named[e.ino]:
				r.done(where, "%q is a second name of directory %d: removed", e.name, e.ino)
				changed = true
				continue
			}
			named[e.ino] = true
			if mode := n.mode & unix.S_IFMT; mode != e.mode {
				r.done(where, "%q has the type of its inode now", e.name)
				e.mode, changed = mode, true
			}
			if r.v.keys.names.NameHash(k.a, e.name) != k.b {
				moved, from = append(moved, e), append(from, k.a)
				changed = true
				continue
			}
			keep = append(keep, e)
		}
		if changed {
			r.putEntries(k, keep)
		}
		return nil
	})
	for i, e := range moved {
		r.done(fmt.Sprintf("directory %d", from[i]), "%q has its own hash now", e.name)
		err = errors.Join(err, r.enter(from[i], e))
	}
	return err
}

func (r *repairer) putEntries(k key, ents []dirent) {
	if len(ents) == 0 {
		r.v.put(k, nil)
	} else {
		r.v.put(k, marshalDirents(ents))
	}
}

// enter adds a name to a directory.
func (r *repairer) enter(dir uint64, e dirent) error {
	k := r.v.direntKey(dir, e.name)
	val, err := r.v.get(k)
	if err != nil {
		return err
	}
	ents, err := decodeDirents(k, val)
	if err != nil {
		return err
	}
	r.putEntries(k, append(ents, e))
	return nil
}
