package meta

import (
	"bytes"
)

const (
	// maxFileSize is the largest file, in bytes.
	maxFileSize = 1 << 62
	// maxWrite is how much one operation writes at most, in bytes.
	maxWrite = 1 << 20
	// smallFile is up to which size a file's data stays in the index for good.
	smallFile = 2048
)

// Write writes data at byte off of a file and returns len(data), or how much
// was written before an error.
func (v *Volume) Write(c Caller, ino uint64, data []byte, off int64) (int, error) {
	if off < 0 {
		return 0, ErrInvalid
	}
	if uint64(off)+uint64(len(data)) > maxFileSize {
		return 0, ErrTooBig
	}
	done := 0
	for done < len(data) || done == 0 {
		part := data[done:min(done+maxWrite, len(data))]
		n, err := v.writePart(c, ino, part, uint64(off)+uint64(done))
		done += n
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
		if len(part) == 0 {
			break
		}
		c.Session = 0 // only one record can answer for the request: the first, whose result says how much it did
	}
	return done, nil
}

// wholePages is the part of a write that goes to a segment, in whole pages.
type wholePages struct {
	first uint64 // page of the file
	data  []byte // the last page of an empty file's first write may be cut off
}

func (v *Volume) writePart(c Caller, ino uint64, data []byte, off uint64) (int, error) {
	if err := v.admitData(ino, len(data)+pageSize); err != nil {
		return 0, err
	}
	lock := v.dataLock(ino)
	lock.Lock()
	defer lock.Unlock()
	w := &pageWrite{v: v, ino: ino, off: off, data: data}
	if err := w.prepare(lock); err != nil {
		return 0, err
	}
	result, replayed, err := v.update(c, func(t *tx) error {
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
		if err := w.apply(t, n); err != nil {
			return err
		}
		n.size = max(n.size, off+uint64(len(data)))
		n.mtime, n.ctime = t.now, t.now
		if c.KillPriv {
			n.clearPriv(c)
		}
		if err := t.dropCapability(n); err != nil {
			return err
		}
		t.putInode(n)
		t.result = uint64(len(data))
		return v.checkQuota(t.pages)
	})
	v.finish(w.places, err == nil && !replayed)
	return int(result), err
}

// finish ends the writing of blocks: nothing refers to them if the operation
// was not applied, and the host gets their space back.
func (v *Volume) finish(places []placed, applied bool) {
	if len(places) == 0 {
		return
	}
	v.segments.done(places)
	if applied || v.stopped() != nil {
		return
	}
	if err := v.segments.discard(places); err != nil {
		v.log.Warn("unused blocks could not be given back to the host", "err", err)
	}
}

// pageWrite brings data into a file's pages. The caller holds the file's data
// lock from prepare to the end of the operation.
type pageWrite struct {
	v    *Volume
	ino  uint64
	off  uint64
	data []byte

	places []placed          // whole pages written to a segment
	whole  wholePages        // the same, as data
	bases  map[uint64][]byte // stored content of pages that are written in part
}

// prepare does the I/O and the cryptography, without the state lock: some pages go
// to a segment at once.
func (w *pageWrite) prepare(lock *dataLock) error {
	end := w.off + uint64(len(w.data))
	empty := false
	if w.off == 0 && end > smallFile {
		var err error
		if empty, err = w.v.hasNoData(w.ino); err != nil {
			return err
		}
	}
	first, stop := w.v.direct(lock, w.off, end, empty)
	if first < stop {
		w.whole = wholePages{first, w.data[first*pageSize-w.off : min(stop*pageSize, end)-w.off]}
		places, err := w.v.segments.writeBlocks(w.whole.data, func(page int) int {
			return regionPages - int((first+uint64(page))%regionPages)
		})
		if err != nil {
			return hostError(err)
		}
		w.places = places
	}
	for _, page := range []uint64{w.off / pageSize, (end - 1) / pageSize} {
		if len(w.data) == 0 || w.covers(page) || page >= first && page < stop || w.bases[page] != nil {
			continue
		}
		base, err := w.v.readPage(w.ino, page)
		if err != nil {
			w.v.finish(w.places, false)
			return err
		}
		if base != nil {
			if w.bases == nil {
				w.bases = make(map[uint64][]byte)
			}
			w.bases[page] = base
		}
	}
	return nil
}

// covers reports whether the write fills a page completely.
func (w *pageWrite) covers(page uint64) bool {
	return w.off <= page*pageSize && w.off+uint64(len(w.data)) >= (page+1)*pageSize
}

// apply maps the data in the tx and keeps the inode's counts.
func (w *pageWrite) apply(t *tx, n *inode) error {
	for i := 0; i < len(w.places); {
		region := (w.whole.first + uint64(w.places[i].page)) / regionPages
		var ptrs []pointer
		for ; i < len(w.places); i++ {
			page := w.whole.first + uint64(w.places[i].page)
			if page/regionPages != region {
				break
			}
			ptrs = append(ptrs, w.places[i].pointer(int(page%regionPages)))
			t.alloc = append(t.alloc, w.places[i].block)
		}
		if err := t.remap(n, region, int(ptrs[0].page), ptrs[len(ptrs)-1].end(), ptrs); err != nil {
			return err
		}
	}
	end := w.off + uint64(len(w.data))
	for pos := w.off; pos < end; {
		page := pos / pageSize
		if len(w.places) > 0 && page == w.whole.first {
			pos += uint64(len(w.whole.data))
			continue
		}
		next := min((page+1)*pageSize, end)
		if err := t.writeInline(n, page, int(pos%pageSize), bytes.Clone(w.data[pos-w.off:next-w.off]), w.bases[page]); err != nil {
			return err
		}
		pos = next
	}
	return nil
}

// writeInline puts part of a page into the small data. base is the page's
// content in a segment, if it has one.
func (t *tx) writeInline(n *inode, page uint64, at int, data, base []byte) error {
	k := key{tablePage, n.ino, page}
	t.inlined = n.ino
	if n.inline > 0 {
		old, err := t.get(k)
		if err != nil {
			return err
		}
		if old != nil {
			if len(data) == pageSize {
				t.put(k, data)
				return nil
			}
			return t.patch(k, at, data)
		}
	}
	mapped, err := t.mapped(n, page)
	if err != nil {
		return err
	}
	if !mapped {
		n.pages++
		t.pages++
	}
	n.inline++
	switch {
	case len(data) == pageSize || at == 0 && base == nil:
		t.put(k, data)
	case base != nil:
		t.put(k, patched(n.clip(page, base), at, data))
	default:
		return t.patch(k, at, data)
	}
	return nil
}

// clip cuts the content of a page that a segment holds, always a whole one, at
// the end of the file: small data never goes beyond it.
func (n *inode) clip(page uint64, content []byte) []byte {
	end := min(n.size-min(n.size, page*pageSize), uint64(len(content)))
	return content[:end:end]
}

// mapped reports whether a page is in a segment.
func (t *tx) mapped(n *inode, page uint64) (bool, error) {
	if n.pages == uint64(n.inline) {
		return false, nil // everything it has is small data
	}
	ptrs, err := t.region(n.ino, page/regionPages)
	if err != nil {
		return false, err
	}
	at := int(page % regionPages)
	for i := range ptrs {
		if at >= int(ptrs[i].page) && at < ptrs[i].end() {
			return true, nil
		}
	}
	return false, nil
}

// inlinePages says which of the pages [from, to) of a region are small data.
func (t *tx) inlinePages(n *inode, region uint64, from, to int) (inline [regionPages]bool, err error) {
	if n.inline == 0 {
		return inline, nil
	}
	start := region * regionPages
	if to-from == 1 {
		val, err := t.v.get(key{tablePage, n.ino, start + uint64(from)})
		inline[from] = val != nil
		return inline, err
	}
	err = t.v.scan(key{tablePage, n.ino, start + uint64(from)}, func(k key, _ []byte) bool {
		if k.b >= start+uint64(to) {
			return false
		}
		inline[k.b-start] = true
		return true
	})
	return inline, err
}

// remap replaces everything pages [from, to) of a region have by add, small
// data included, and keeps the inode's and the volume's counts.
func (t *tx) remap(n *inode, region uint64, from, to int, add []pointer) error {
	inline, err := t.inlinePages(n, region, from, to)
	if err != nil {
		return err
	}
	old, err := t.region(n.ino, region)
	if err != nil {
		return err
	}
	had := inline
	for i := range old {
		for p := int(old[i].page); p < old[i].end(); p++ {
			had[p] = true
		}
	}
	before := 0
	for p := from; p < to; p++ {
		if had[p] {
			before++
		}
		if inline[p] {
			t.del(key{tablePage, n.ino, region*regionPages + uint64(p)})
			n.inline--
		}
	}
	after := 0
	for i := range add {
		after += int(add[i].n)
	}
	n.pages = uint64(int64(n.pages) + int64(after-before))
	t.pages += int64(after - before)
	if after > 0 && after*pageSize < neighbours && n.size > mostPieces*pageSize {
		if c := (chunk{n.ino, region * regionPages / chunkPages}); len(t.torn) == 0 || t.torn[len(t.torn)-1] != c {
			t.torn = append(t.torn, c)
		}
	}
	_, err = t.splice(n.ino, region, from, to, add)
	return err
}
