package meta

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// The parts of bbolt's file format (its version 2) that say which pages a
// state of the database uses. bbolt writes a state to pages that the state
// before does not use, then one of the two meta pages, in turns.
const (
	boltPageHeader = 16 // id (8), flags (2), count (2), further pages (4)
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltMetas      = 2 // pages 0 and 1
	boltFreelist   = 0x10
)

// boltMeta is what a meta page says.
type boltMeta struct {
	txid     uint64 // number of the transaction: which of two meta pages is newer
	root     uint64 // page of the table of tables
	freelist uint64 // page of the list of free pages
	pages    uint64 // no page numbered so or higher is in use
}

// parseBoltMeta reads a meta page; ok false says that bbolt would not take it.
func parseBoltMeta(page []byte) (m boltMeta, ok bool) {
	le := binary.LittleEndian
	b := page[boltPageHeader:]
	sum := fnv.New64a()
	sum.Write(b[:56])
	if le.Uint32(b) != boltMagic || le.Uint32(b[4:]) != boltVersion || le.Uint32(b[8:]) != pageSize || le.Uint64(b[56:]) != sum.Sum64() {
		return m, false
	}
	return boltMeta{txid: le.Uint64(b[48:]), root: le.Uint64(b[16:]), freelist: le.Uint64(b[32:]), pages: le.Uint64(b[40:])}, true
}

// page returns where the meta page of the state is.
func (m boltMeta) page() uint64 { return m.txid % boltMetas }

// newestMeta reads the meta page that bbolt would take.
func newestMeta(f io.ReaderAt) (newest boltMeta, err error) {
	page := make([]byte, pageSize)
	found := false
	for i := range boltMetas {
		if _, err := f.ReadAt(page, int64(i*pageSize)); err != nil {
			return newest, err
		}
		if m, ok := parseBoltMeta(page); ok && (!found || m.txid > newest.txid) {
			newest, found = m, true
		}
	}
	if !found {
		return newest, fmt.Errorf("%s has no meta page", indexName)
	}
	return newest, nil
}

// freelistRun reads the pages of the list of free pages.
func freelistRun(f io.ReaderAt, m boltMeta) ([]byte, error) {
	head := make([]byte, pageSize)
	if m.freelist < boltMetas || m.freelist >= m.pages {
		return nil, fmt.Errorf("the list of free pages is at page %d of %d", m.freelist, m.pages)
	}
	if _, err := f.ReadAt(head, int64(m.freelist)*pageSize); err != nil {
		return nil, err
	}
	further := uint64(binary.LittleEndian.Uint32(head[12:]))
	if further >= m.pages-m.freelist {
		return nil, fmt.Errorf("the list of free pages ends behind page %d", m.pages)
	}
	run := make([]byte, (1+further)*pageSize)
	copy(run, head)
	_, err := f.ReadAt(run[pageSize:], int64(m.freelist+1)*pageSize)
	return run, err
}

// usedPages returns the pages of a state, its meta page left out, from its list
// of free pages.
func usedPages(m boltMeta, run []byte) (pageSet, error) {
	le := binary.LittleEndian
	ids := run[boltPageHeader:]
	count := uint64(le.Uint16(run[10:]))
	if count == 0xFFFF { // the true count does not fit
		count, ids = le.Uint64(ids), ids[8:]
	}
	if le.Uint16(run[8:])&boltFreelist == 0 || count > uint64(len(ids))/8 {
		return nil, fmt.Errorf("page %d is no list of free pages", m.freelist)
	}
	used := make(pageSet, (m.pages+63)/64)
	for id := uint64(boltMetas); id < m.pages; id++ {
		used.add(id)
	}
	for i := range count {
		id := le.Uint64(ids[8*i:])
		if id < boltMetas || id >= m.pages {
			return nil, fmt.Errorf("page %d is free and does not exist", id)
		}
		used.remove(id)
	}
	return used, nil
}

// pageSet is a set of page numbers.
type pageSet []uint64

func (s pageSet) add(id uint64)    { s[id/64] |= 1 << (id % 64) }
func (s pageSet) remove(id uint64) { s[id/64] &^= 1 << (id % 64) }
func (s pageSet) has(id uint64) bool {
	return id/64 < uint64(len(s)) && s[id/64]>>(id%64)&1 != 0
}

// runs calls fn for each run of consecutive pages that are in s and not in
// without, of at most limit pages.
func (s pageSet) runs(without pageSet, limit int, fn func(first uint64, n int) error) error {
	first, n := uint64(0), 0
	flush := func() error {
		if n == 0 {
			return nil
		}
		from, count := first, n
		n = 0
		return fn(from, count)
	}
	for id := range uint64(len(s)) * 64 {
		if !s.has(id) || without.has(id) {
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		if n == 0 {
			first = id
		}
		if n++; n == limit {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
