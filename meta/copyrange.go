package meta

import (
	"errors"
)

// maxCopy is how much one operation copies at most, in bytes.
const maxCopy = 4 << 20

// CopyRange copies part of a file into another, or elsewhere in the same, and
// returns how much it copied, 0 at the end of the source. Whole blocks are
// shared, not copied: two files then refer to one block until one of them
// overwrites it. What cannot be shared (small data, different alignment) is
// read and written.
func (v *Volume) CopyRange(c Caller, src uint64, srcOff int64, dst uint64, dstOff int64, length int64) (int64, error) {
	if srcOff < 0 || dstOff < 0 || length < 0 {
		return 0, ErrInvalid
	}
	if uint64(dstOff)+uint64(length) > maxFileSize {
		return 0, ErrTooBig
	}
	if src == dst && srcOff < dstOff+length && dstOff < srcOff+length {
		return 0, ErrInvalid
	}
	a, err := v.GetAttr(src)
	if err != nil {
		return 0, err
	}
	if uint64(srcOff) >= a.Size || length == 0 {
		return 0, nil
	}
	length = min(length, int64(a.Size)-srcOff, maxCopy)
	if srcOff%pageSize == 0 && dstOff%pageSize == 0 && length >= pageSize {
		n, err := v.shareRange(c, src, uint64(srcOff)/pageSize, dst, uint64(dstOff)/pageSize, uint64(length)/pageSize)
		if !errors.Is(err, errNotShared) {
			return n, err
		}
	}
	buf := make([]byte, min(length, maxWrite))
	n, err := v.Peek(src, buf, srcOff)
	if err != nil || n == 0 {
		return 0, err
	}
	n, err = v.Write(c, dst, buf[:n], dstOff)
	return int64(n), err
}

// errNotShared sends a copy the slow way.
var errNotShared = errors.New("range cannot be shared")

// shareRange makes pages of dst refer to the blocks of src. All or nothing; a
// range with small data is not shared.
func (v *Volume) shareRange(c Caller, src, srcPage, dst, dstPage, pages uint64) (int64, error) {
	if err := v.admit(growth); err != nil {
		return 0, err
	}
	defer v.lockBoth(src, dst)()
	result, _, err := v.update(c, func(t *tx) error {
		from, err := t.inode(src)
		if err != nil {
			return err
		}
		to := from
		if dst != src {
			if to, err = t.inode(dst); err != nil {
				return err
			}
		}
		if !from.isRegular() || !to.isRegular() {
			return ErrInvalid
		}
		// The size may have changed since CopyRange looked.
		if (srcPage+pages)*pageSize > from.size {
			return errNotShared
		}
		p, err := v.plan(nil, from, srcPage, srcPage+pages)
		if err != nil {
			return err
		}
		if len(p.inline) > 0 {
			return errNotShared
		}
		if err := t.share(&p, to, srcPage, dstPage, pages); err != nil {
			return err
		}
		to.size = max(to.size, (dstPage+pages)*pageSize)
		to.mtime, to.ctime = t.now, t.now
		if c.KillPriv {
			to.clearPriv(c)
		}
		t.putInode(to)
		t.result = pages * pageSize
		return v.checkQuota(t.pages)
	})
	return int64(result), err
}

// share maps pages of to as the plan says, region by region.
func (t *tx) share(p *readPlan, to *inode, srcPage, dstPage, pages uint64) error {
	for page := dstPage; page < dstPage+pages; {
		region := page / regionPages
		end := min((region+1)*regionPages, dstPage+pages)
		var add []pointer
		for i := range p.ptrs {
			r := p.ptrs[i]
			// The part of the pointer that lies in [page, end) of the target.
			begin := int64(r.page) - int64(srcPage) + int64(dstPage)
			lo, hi := max(begin, int64(page)), min(begin+int64(r.n), int64(end))
			if lo >= hi {
				continue
			}
			q := r.pointer
			q.skip += uint8(lo - begin)
			q.n = uint8(hi - lo)
			q.page = uint8(lo % regionPages)
			add = append(add, q)
			if err := t.ref(q.block()); err != nil {
				return err
			}
		}
		if err := t.remap(to, region, int(page%regionPages), int(page%regionPages+(end-page)), add); err != nil {
			return err
		}
		page = end
	}
	return nil
}

// lockBoth takes the data locks of two inodes, in the one order that cannot
// deadlock, and returns what releases them.
func (v *Volume) lockBoth(a, b uint64) (unlock func()) {
	first, second := v.dataLock(a), v.dataLock(b)
	if first == second {
		first.Lock()
		return first.Unlock
	}
	if a%uint64(len(v.dataLocks)) > b%uint64(len(v.dataLocks)) {
		first, second = second, first
	}
	first.Lock()
	second.Lock()
	return func() {
		second.Unlock()
		first.Unlock()
	}
}
