package meta

import (
	"golang.org/x/sys/unix"
)

// readPlan is where the pages of a range of a file are.
type readPlan struct {
	ptrs    []located         // in the order of the file
	inline  map[uint64][]byte // page → small data
	mapped  uint64            // pages the file has
	strided bool              // nobody reads what is between
}

// located is a pointer with its place in the file.
type located struct {
	page uint64 // of the file
	pointer
}

// plan looks up where pages [from, to) of an inode are, into room if that is
// enough. The caller holds v.mu.
func (v *Volume) plan(room []located, n *inode, from, to uint64) (p readPlan, err error) {
	p.ptrs, p.mapped = room[:0], n.pages
	switch {
	case n.inline > 0 && to-from == 1:
		k := key{tablePage, n.ino, from}
		if val, err := v.get(k); err != nil || val != nil {
			p.inline = map[uint64][]byte{from: val}
			return p, err
		}
	case n.inline > 0:
		p.inline = make(map[uint64][]byte)
		err := v.scan(key{tablePage, n.ino, from}, func(k key, val []byte) bool {
			if k.b >= to {
				return false
			}
			p.inline[k.b] = val
			return true
		})
		if err != nil || len(p.inline) == int(to-from) {
			return p, err
		}
	}
	if n.pages == 0 {
		return p, nil
	}
	for i := from / regionPages; i <= (to-1)/regionPages; i++ {
		r, err := v.regionOf(n.ino, i)
		if err != nil {
			return p, err
		}
		first := i * regionPages
		for _, ptr := range r.from(int(max(from, first) - first)) {
			if first+uint64(ptr.page) >= to {
				break
			}
			p.ptrs = append(p.ptrs, located{first + uint64(ptr.page), ptr})
		}
	}
	return p, nil
}

// Read fills dst from byte off of a file and returns how many bytes there were.
// It holds no lock while it reads from segments: between look-up and reading,
// the data may be rewritten and its old place punched, and reading then fails
// authentication. So what fails is looked up again, at last with the
// file's data lock, under which nothing moves: that failure is damage.
func (v *Volume) Read(ino uint64, dst []byte, off int64) (n int, err error) {
	return v.read(ino, dst, off, true)
}

// Peek is Read that leaves the access time alone.
func (v *Volume) Peek(ino uint64, dst []byte, off int64) (n int, err error) {
	return v.read(ino, dst, off, false)
}

func (v *Volume) read(ino uint64, dst []byte, off int64, access bool) (n int, err error) {
	if off < 0 {
		return 0, ErrInvalid
	}
	v.torn.use()
	for range 2 {
		if n, err = v.readOnce(ino, dst, uint64(off), access); err == nil {
			return n, nil
		}
	}
	lock := v.dataLock(ino)
	lock.Lock()
	defer lock.Unlock()
	return v.readOnce(ino, dst, uint64(off), access)
}

func (v *Volume) readOnce(ino uint64, dst []byte, off uint64, access bool) (int, error) {
	var p readPlan
	var few [2]located // of a small read
	found := false
	err := v.view(func() error {
		n, err := v.inodeOf(ino)
		if err != nil {
			return err
		}
		switch n.mode & unix.S_IFMT {
		case unix.S_IFREG:
		case unix.S_IFDIR:
			return ErrIsDir
		default:
			return ErrInvalid
		}
		if access {
			v.accessed(&n)
		}
		if off >= n.size || len(dst) == 0 {
			return nil
		}
		dst = dst[:min(uint64(len(dst)), n.size-off)]
		found = true
		p, err = v.plan(few[:], &n, off/pageSize, (off+uint64(len(dst))+pageSize-1)/pageSize)
		return err
	})
	if err != nil || !found {
		return 0, err
	}
	p.strided = v.dataLock(ino).strides(int64(off), len(dst))
	if len(dst) >= prefetchFrom && pieces(p.ptrs)*neighbours > len(dst) {
		v.torn.read(chunk{ino, off / (chunkPages * pageSize)})
	}
	return len(dst), v.fill(&p, dst, off)
}

// fill reads what a plan describes into dst, which begins at byte off.
func (v *Volume) fill(p *readPlan, dst []byte, off uint64) error {
	from, to := off/pageSize, (off+uint64(len(dst))+pageSize-1)/pageSize
	holes := to - from
	for i := range p.ptrs {
		r := &p.ptrs[i]
		holes -= min(r.page+uint64(r.n), to) - max(r.page, from)
	}
	if holes > 0 {
		clear(dst)
	}
	around := p.around(len(dst))
	awaited := false // the host has been told of all that is read
	for i := 0; i < len(p.ptrs); {
		j := runEnd(p.ptrs, i)
		seg, err := v.segments.get(p.ptrs[i].seg)
		if err != nil {
			return err
		}
		err = seg.readRun(p.ptrs[i:j], dst, off, func(buf []byte, phys uint32) error {
			if !awaited {
				if j == len(p.ptrs) { // there is nothing else to tell of
					return seg.read(buf, phys, around)
				}
				if !seg.file.Cached(int64(phys)*pageSize, int64(len(buf))) {
					awaited = true
					if err := v.prefetch(p.ptrs[i:], around); err != nil {
						return err
					}
				}
			}
			return readFull(seg.file, buf, int64(phys)*pageSize)
		})
		if err != nil {
			return err
		}
		i = j
	}
	for page, val := range p.inline {
		copyPage(dst, off, page, val)
	}
	return nil
}

// readRun decrypts blocks that are contiguous in one segment, which read reads.
func (seg *segment) readRun(run []located, dst []byte, off uint64, read func(buf []byte, phys uint32) error) error {
	first := &run[0]
	size := runPages(run) * pageSize
	pooled := buffers.Get().(*[]byte)
	defer buffers.Put(pooled)
	if cap(*pooled) < size+tagSize {
		*pooled = make([]byte, 0, size+tagSize)
	}
	buf := (*pooled)[:size+tagSize]
	if err := read(buf[:size], first.phys); err != nil {
		return err
	}
	for i := range run {
		r := &run[i]
		at := int(r.phys-first.phys) * pageSize
		end := at + int(r.blk)*pageSize
		// The tag goes behind the ciphertext, over the next block's first bytes.
		var saved [tagSize]byte
		copy(saved[:], buf[end:end+tagSize])
		whole := r.whole(dst, off)
		plain, err := seg.open(&r.pointer, whole, buf[at:end+tagSize])
		if err != nil {
			return err
		}
		copy(buf[end:end+tagSize], saved[:])
		if whole != nil {
			continue
		}
		for k := range int(r.n) {
			from := (int(r.skip) + k) * pageSize
			copyPage(dst, off, r.page+uint64(k), plain[from:from+pageSize])
		}
	}
	return nil
}

// whole returns the part of dst, which begins at byte off of the file, for a block
// all of which is asked for; nil if not all of it is.
func (r *located) whole(dst []byte, off uint64) []byte {
	start, size := int64(r.page*pageSize)-int64(off), int64(r.blk)*pageSize
	if r.n != r.blk || start < 0 || start+size > int64(len(dst)) {
		return nil
	}
	return dst[start : start : start+size]
}

// copyPage copies the part of a page's content that lies inside dst, which
// begins at byte off of the file. Content shorter than a page ends in zeros.
func copyPage(dst []byte, off, page uint64, content []byte) {
	start := int64(page*pageSize) - int64(off) // where the page begins in dst
	end := min(start+pageSize, int64(len(dst)))
	for from := max(start, 0); from < end; {
		skip := from - start
		if skip >= int64(len(content)) {
			clear(dst[from:end])
			return
		}
		from += int64(copy(dst[from:end], content[skip:]))
	}
}

// readPage returns the content of one page as it is stored in a segment, nil
// if it has none there. The caller holds the inode's data lock, so the place
// does not change; it does not hold v.mu.
func (v *Volume) readPage(ino, page uint64) ([]byte, error) {
	var ptr pointer // n 0 = none
	at := uint8(page % regionPages)
	err := v.view(func() error {
		r, err := v.regionOf(ino, page/regionPages)
		if err != nil {
			return err
		}
		if ptrs := r.from(int(at)); len(ptrs) > 0 && ptrs[0].page <= at {
			ptr = ptrs[0]
		}
		return nil
	})
	if err != nil || ptr.n == 0 {
		return nil, err
	}
	skip := int(ptr.skip + at - ptr.page)
	plain, err := v.segments.readBlock(&ptr, make([]byte, blockPages*pageSize+tagSize))
	if err != nil {
		return nil, err
	}
	return plain[skip*pageSize : (skip+1)*pageSize : (skip+1)*pageSize], nil
}

// Seek finds the next data (SEEK_DATA) or hole (SEEK_HOLE) at or after off; the
// end of the file is a hole. ErrRange if off is at or beyond the end, or if no
// data follows.
func (v *Volume) Seek(ino uint64, off int64, whence int) (int64, error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, ErrInvalid
	}
	var at int64
	err := v.view(func() error {
		n, err := v.inodeOf(ino)
		if err != nil {
			return err
		}
		if off < 0 || uint64(off) >= n.size {
			return ErrRange
		}
		at, err = v.seek(&n, uint64(off), whence == unix.SEEK_DATA)
		return err
	})
	return at, err
}

// seek walks the mapped pages of a file from off on. The caller holds v.mu.
func (v *Volume) seek(n *inode, off uint64, wantData bool) (int64, error) {
	first := off / pageSize
	end := (n.size + pageSize - 1) / pageSize
	for page := first; page < end; {
		from, to, err := v.nextMapped(n, page, end)
		if err != nil {
			return 0, err
		}
		if wantData {
			if from >= end {
				return 0, ErrRange
			}
			return int64(max(off, from*pageSize)), nil
		}
		if from > page {
			return int64(max(off, page*pageSize)), nil
		}
		page = to
	}
	if wantData {
		return 0, ErrRange
	}
	return int64(n.size), nil
}

// nextMapped returns the first run of mapped pages [from, to) at or after
// page; from = end if there is none. A run may be reported in pieces.
func (v *Volume) nextMapped(n *inode, page, end uint64) (from, to uint64, err error) {
	from, to = end, end
	if n.inline > 0 {
		err = v.scan(key{tablePage, n.ino, page}, func(k key, _ []byte) bool {
			from, to = min(k.b, end), min(k.b+1, end)
			return false
		})
		if err != nil {
			return 0, 0, err
		}
	}
	var decodeErr error
	err = v.scan(key{tableRegion, n.ino, page / regionPages}, func(k key, val []byte) bool {
		if k.b*regionPages >= from {
			return false
		}
		var ptrs []pointer
		if ptrs, decodeErr = decodeRegion(n.ino, k.b, val); decodeErr != nil {
			return false
		}
		for _, p := range ptrs {
			start, stop := k.b*regionPages+uint64(p.page), k.b*regionPages+uint64(p.end())
			if stop > page {
				if start = max(start, page); start < from {
					from, to = start, stop
				}
				return false
			}
		}
		return true
	})
	if decodeErr != nil {
		err = decodeErr
	}
	return from, min(to, end), err
}
