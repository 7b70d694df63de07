package meta

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"

	"cmkfs/crypto"
	"cmkfs/store"
)

// segment is one open data file: a header page, then AEAD blocks, each written
// once at the place its nonce is derived from.
type segment struct {
	id     uint64
	file   store.File
	cipher *crypto.Sequence
	// writers counts the operations that took places here and have not
	// committed: the segment may look dead and is not. segments.mu guards it.
	writers int
}

// segments is the data of a volume. A writer takes positions in the current
// segment under mu; encryption and I/O happen outside.
type segments struct {
	st       store.Store
	base     crypto.Key
	volumeID [16]byte

	mu struct {
		sync.Mutex
		open   map[uint64]*segment
		cur    *segment
		next   uint32 // first free page of cur
		nextID uint64
		dirty  map[uint64]*segment // written since the last flush
		fresh  bool                // a segment was created since the last flush
		idle   []*segment          // not in open any more, to be closed at the next trim
	}
}

func segmentName(id uint64) string { return fmt.Sprintf("%s/%016x", segmentDir, id) }

// segmentID parses a segment's file name.
func segmentID(name string) (id uint64, ok bool) {
	id, err := strconv.ParseUint(name, 16, 64)
	return id, err == nil && len(name) == 16 && id < math.MaxUint64
}

func newSegments(st store.Store, base crypto.Key, volumeID [16]byte, nextID uint64) *segments {
	s := &segments{st: st, base: base, volumeID: volumeID}
	s.mu.open = make(map[uint64]*segment)
	s.mu.dirty = make(map[uint64]*segment)
	s.mu.nextID = nextID
	return s
}

// allocate takes pages consecutive pages in the current segment, or in a new
// one, and counts the caller as a writer until done. Positions taken and not written are lost, which costs nothing: the file
// stays sparse there.
func (s *segments) allocate(pages int) (*segment, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.cur == nil || int(s.mu.next)+pages > segmentPages {
		if err := s.createLocked(); err != nil {
			return nil, 0, err
		}
	}
	phys := s.mu.next
	s.mu.next += uint32(pages)
	s.mu.cur.writers++
	return s.mu.cur, phys, nil
}

// createLocked begins a segment. Its name becomes durable with the next sync,
// before any operation that points into it.
func (s *segments) createLocked() error {
	h := &fileHeader{magic: segmentMagic, volumeID: s.volumeID, number: s.mu.nextID}
	rand.Read(h.salt[:])
	cipher := h.sequence(s.base)
	s.mu.nextID++ // whatever follows: the name may be taken
	f, err := s.st.Create(segmentName(h.number), 0)
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	if _, err := f.WriteAt(h.marshal(cipher), 0); err != nil {
		return errors.Join(fmt.Errorf("begin segment: %w", err), f.Close(), s.st.Remove(segmentName(h.number)))
	}
	s.mu.cur = &segment{id: h.number, file: f, cipher: cipher}
	s.mu.open[h.number] = s.mu.cur
	s.mu.next = 1
	s.mu.fresh = true
	return nil
}

// get returns an open segment.
func (s *segments) get(id uint64) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.mu.open[id]; seg != nil {
		return seg, nil
	}
	name := segmentName(id)
	f, err := s.st.Open(name)
	if err != nil {
		if errors.Is(err, store.ErrNotExist) {
			err = &CorruptError{Where: name, Err: err}
		}
		return nil, err
	}
	page := make([]byte, pageSize)
	if _, err := f.ReadAt(page, 0); err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	h, cipher, err := readHeader(page, segmentMagic, s.volumeID, s.base)
	if err == nil && (h == nil || h.number != id) {
		err = errors.New("the header is another segment's or empty")
	}
	if err != nil {
		f.Close()
		return nil, &CorruptError{Where: name, Err: err}
	}
	seg := &segment{id: id, file: f, cipher: cipher}
	s.mu.open[id] = seg
	return seg, nil
}

// sync makes everything written before the call durable.
func (s *segments) sync() error {
	s.mu.Lock()
	dirty, fresh := s.mu.dirty, s.mu.fresh
	s.mu.dirty, s.mu.fresh = make(map[uint64]*segment), false
	s.mu.Unlock()
	for _, seg := range dirty {
		if err := seg.file.Sync(); err != nil {
			return fmt.Errorf("flush %s: %w", segmentName(seg.id), err)
		}
	}
	if fresh {
		if err := s.st.SyncDir(segmentDir); err != nil {
			return fmt.Errorf("flush %s: %w", segmentDir, err)
		}
	}
	return nil
}

// done says that the operation which wrote these blocks committed or gave up.
func (s *segments) done(places []placed) {
	if len(places) == 0 {
		return
	}
	s.mu.Lock()
	s.mu.open[places[0].block.seg].writers--
	s.mu.Unlock()
}

// discard punches consecutive blocks that nothing refers to.
func (s *segments) discard(places []placed) error {
	first, last := places[0].block, places[len(places)-1].block
	seg, err := s.get(first.seg)
	if err != nil {
		return err
	}
	return seg.file.PunchHole(int64(first.phys)*pageSize, int64(last.phys+last.blk-first.phys)*pageSize)
}

// busy reports whether blocks may still be added to what a segment holds. After
// false, everything written to it is in the volume's state.
func (s *segments) busy(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.cur != nil && s.mu.cur.id == id || s.mu.open[id] != nil && s.mu.open[id].writers > 0
}

// passed keeps the numbers of segments that the journal names from being given
// again. They may be removed already; the journal's operations free their blocks
// once more, and would free what is in a new segment of the number.
func (s *segments) passed(blocks []block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range blocks {
		s.mu.nextID = max(s.mu.nextID, b.seg+1)
	}
}

func (s *segments) nextID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.nextID
}

// mostOpen is how many segments stay open for long.
const mostOpen = 256

// trim closes segments beyond the most that stay open, now and then: files take
// descriptors, and a volume may have any number of them. Whoever has just got one
// of them has until the next call to begin reading, and then a close waits.
func (s *segments) trim() error {
	s.mu.Lock()
	idle := s.mu.idle
	s.mu.idle = nil
	for id, seg := range s.mu.open {
		if len(s.mu.open) <= mostOpen {
			break
		}
		if seg != s.mu.cur && seg.writers == 0 && s.mu.dirty[id] == nil {
			delete(s.mu.open, id)
			s.mu.idle = append(s.mu.idle, seg)
		}
	}
	s.mu.Unlock()
	return closeAll(idle)
}

func closeAll(segs []*segment) (err error) {
	for _, seg := range segs {
		err = errors.Join(err, seg.file.Close())
	}
	return err
}

// remove deletes a segment in which nothing is alive.
func (s *segments) remove(id uint64) error {
	s.mu.Lock()
	seg := s.mu.open[id]
	delete(s.mu.open, id)
	delete(s.mu.dirty, id)
	s.mu.Unlock()
	if seg != nil {
		// A reader may be inside: it fails, looks again and finds the new place.
		if err := seg.file.Close(); err != nil {
			return err
		}
	}
	if err := s.st.Remove(segmentName(id)); err != nil && !errors.Is(err, store.ErrNotExist) {
		return err
	}
	return nil
}

func (s *segments) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := closeAll(append(slices.Collect(maps.Values(s.mu.open)), s.mu.idle...))
	clear(s.mu.open)
	s.mu.idle = nil
	return err
}

// blockAD binds a block to its length; segment and place are in key and nonce.
func blockAD(pages int) []byte { return blockADs[pages] }

var blockADs = func() (ads [blockPages + 1][]byte) {
	for pages := range ads {
		ads[pages] = binary.LittleEndian.AppendUint32([]byte("blk"), uint32(pages))
	}
	return ads
}()

// buffers holds scratch space for ciphertext.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<20+pageSize); return &b }}

// writeBlocks seals data, whose last page is filled up with zeros if it is not whole,
// as AEAD blocks of at most writePages pages into consecutive places and writes
// them. cuts says how many pages a block that begins at a page of data may have at
// most: a block crosses no region boundary and no gap in the file.
func (s *segments) writeBlocks(data []byte, cuts func(page int) int) ([]placed, error) {
	pages := (len(data) + pageSize - 1) / pageSize
	seg, phys, err := s.allocate(pages)
	if err != nil {
		return nil, err
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	out := (*buf)[:0]
	places := make([]placed, 0, pages/writePages+2)
	for page := 0; page < pages; {
		n := min(writePages, pages-page, cuts(page))
		at := phys + uint32(page)
		plain := data[page*pageSize : min((page+n)*pageSize, len(data))]
		if len(plain) < n*pageSize {
			plain = append(make([]byte, 0, n*pageSize), plain...)[:n*pageSize]
		}
		out = seg.cipher.Seal(out, uint64(at), plain, blockAD(n))
		p := placed{page: page, block: block{seg.id, at, uint32(n)}}
		copy(p.tag[:], out[len(out)-tagSize:])
		out = out[:len(out)-tagSize]
		places = append(places, p)
		page += n
	}
	*buf = out[:0]
	if _, err := seg.file.WriteAt(out, int64(phys)*pageSize); err != nil {
		_ = s.discard(places) // what was written of it would only take room
		s.done(places)
		return nil, fmt.Errorf("write %s: %w", segmentName(seg.id), err)
	}
	// Only now: a flush between allocation and write must not clear the mark.
	s.mu.Lock()
	s.mu.dirty[seg.id] = seg
	s.mu.Unlock()
	return places, nil
}

// placed is a block just written: its pages begin at page of the data given.
type placed struct {
	page  int
	block block
	tag   [tagSize]byte
}

// pointer makes the map entry for the whole block at page of a region.
func (p *placed) pointer(page int) pointer {
	return pointer{page: uint8(page), n: uint8(p.block.blk), blk: uint8(p.block.blk), phys: p.block.phys, seg: p.block.seg, tag: p.tag}
}

// readBlock decrypts one AEAD block into a new slice of dst's type; dst must
// hold blockPages pages and a tag.
func (s *segments) readBlock(p *pointer, scratch []byte) ([]byte, error) {
	seg, err := s.get(p.seg)
	if err != nil {
		return nil, err
	}
	n := int(p.blk) * pageSize
	if err := seg.read(scratch[:n], p.phys, neighbours); err != nil {
		return nil, fmt.Errorf("read %s: %w", segmentName(p.seg), err)
	}
	return seg.open(p, nil, scratch[:n+tagSize])
}

// open decrypts the block whose ciphertext fills buf but for its last tagSize
// bytes, which it overwrites: behind the bytes of dst, which has room for it, or
// in place if that is nil.
func (seg *segment) open(p *pointer, dst, buf []byte) ([]byte, error) {
	copy(buf[len(buf)-tagSize:], p.tag[:])
	if dst == nil {
		dst = buf[:0]
	}
	plain, err := seg.cipher.Open(dst, uint64(p.phys), buf, blockAD(int(p.blk)))
	if err != nil {
		return nil, &CorruptError{Where: fmt.Sprintf("%s page %d", segmentName(seg.id), p.phys), Err: err}
	}
	return plain, nil
}

// readFull reads len(b) bytes; what lies past the end of the file reads as
// zeros, as a punched hole does, and fails authentication later.
func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(b[n:])
	return nil
}
