package meta

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"cmkfs/crypto"
	"cmkfs/store"
)

// rebuildIndex makes a new index of the values that can be read in the old one,
// of which nothing else is believed: each value is sealed with its key. Pages
// that match their tags go before others, in which a value may be an older one.
// A crash leaves the old index, or, between two renames, the new one without its
// tags, for which the next repair comes to the same result.
func (r *repairer) rebuildIndex(sb *Superblock) error {
	keys := deriveKeys(r.cfg.Key)
	s := &salvage{x: newIndex(nil, keys), found: newOverlay(), sure: make(map[key]bool)}
	if err := s.read(r.cfg.Store, newTagFile(r.cfg.Store, keys, sb.VolumeID)); err != nil {
		return err
	}
	for _, page := range s.bad {
		r.lost(fmt.Sprintf("%s page %d", indexName, page), "it is damaged; what could not be read in it is gone")
	}
	if s.doubtful > 0 {
		r.lost(indexName, "%d values were read in pages without a valid tag: each is authentic, and may be older than the rest", s.doubtful)
	}
	if s.summary == nil {
		r.lost(indexName, "the summary is gone, and with it the operations since the last checkpoint")
		s.summary = &summary{nextIno: RootIno + 1, nextSeg: 1}
		v := &Volume{cfg: r.cfg, st: r.cfg.Store, keys: keys, sb: sb, lost: r.lost}
		if err := v.skipJournal(s.summary); err != nil {
			return err
		}
	}
	s.summary.setHash = crypto.SetHash{}
	err := createIndex(r.cfg.Store, keys, sb.VolumeID, func(tx *bbolt.Tx, x *index) error {
		if err := x.write(tx, s.found, s.summary); err != nil {
			return err
		}
		return x.putSummary(tx, s.summary)
	})
	r.done(indexName, "it is made anew of %d values", s.found.tree.Len())
	return err
}

// skipJournal finds a number beyond every operation of the journal.
func (v *Volume) skipJournal(s *summary) error {
	v.journal = &journal{st: v.st, base: v.keys.journal, volumeID: v.sb.VolumeID, size: v.sb.JournalBytes}
	scans, err := v.readSlots()
	if err == nil {
		_, _, err = v.readOperations(scans)
	}
	s.seq = v.lastSeen
	return errors.Join(err, v.journal.close())
}

// salvage collects values from the pages of an index.
type salvage struct {
	x        *index
	found    *overlay
	sure     map[key]bool // which of them are in pages that match their tags
	summary  *summary
	bad      []uint64
	doubtful int
}

const (
	boltBranch = 0x01
	boltLeaf   = 0x02
)

// read goes through every page of the file.
func (s *salvage) read(st store.Store, tags *tagFile) error {
	file, err := st.Open(indexName)
	if errors.Is(err, store.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	defer tags.close()
	known, err := tags.load()
	var corrupt *CorruptError
	if err != nil && !errors.As(err, &corrupt) {
		return err
	}
	size, err := file.Size()
	if err != nil {
		return err
	}
	used := s.used(file, tags, known, uint64(size)/pageSize)
	if used != nil {
		_ = used.runs(nil, 1, func(id uint64, _ int) error {
			if id >= uint64(size)/pageSize {
				s.bad = append(s.bad, id)
			}
			return nil
		})
	}
	page := make([]byte, pageSize)
	for pass := range 2 { // the pages that match first
		for id := uint64(boltMetas); id < uint64(size)/pageSize; id++ {
			if used != nil && !used.has(id) {
				continue
			}
			if err := readFull(file, page, int64(id)*pageSize); err != nil {
				return err
			}
			sure := known != nil && used != nil && tags.matches(known, id, page)
			if sure != (pass == 0) {
				continue
			}
			if !sure && known != nil && used != nil {
				s.bad = append(s.bad, id)
			}
			run := page
			if more := binary.LittleEndian.Uint32(page[12:]); more > 0 && more < 64 {
				run = make([]byte, (1+more)*pageSize)
				if err := readFull(file, run, int64(id)*pageSize); err != nil {
					return err
				}
			}
			s.leaf(run, sure)
		}
	}
	return nil
}

// used returns the pages in use, as the index says itself; nil if it does not.
func (s *salvage) used(file store.File, tags *tagFile, known *pageTags, pages uint64) pageSet {
	m, ok := s.meta(file, tags, known, pages)
	if !ok {
		return nil
	}
	run, err := freelistRun(file, m)
	if err == nil {
		var used pageSet
		if used, err = usedPages(m, run); err == nil {
			for i := range len(run) / pageSize {
				id := m.freelist + uint64(i)
				if known != nil && !tags.matches(known, id, run[i*pageSize:(i+1)*pageSize]) {
					err = crypto.ErrAuth
				}
				used.remove(id)
			}
		}
		if err == nil {
			return used
		}
	}
	s.bad = append(s.bad, m.freelist)
	used := make(pageSet, pages/64+1)
	reachable(file, m.root, pages, used)
	return used
}

// meta returns the meta page of the state that the tags describe, or else the
// newest there is. If that page is damaged, the list of free pages that its
// transaction wrote says as much, but for where the tables begin.
func (s *salvage) meta(file store.File, tags *tagFile, known *pageTags, pages uint64) (m boltMeta, ok bool) {
	page := make([]byte, pageSize)
	if known != nil {
		if readFull(file, page, int64(known.txid%boltMetas)*pageSize) != nil {
			return m, false
		}
		if m, ok = parseBoltMeta(page); ok && tags.matches(known, m.page(), page) {
			return m, true
		}
		for _, id := range known.fresh {
			if id < boltMetas || id >= pages || readFull(file, page, int64(id)*pageSize) != nil {
				continue
			}
			if binary.LittleEndian.Uint16(page[8:])&boltFreelist != 0 && tags.matches(known, id, page) {
				s.bad = append(s.bad, known.txid%boltMetas)
				end := uint64(len(known.tags))
				for end > 0 && known.get(end-1) == [tagSize]byte{} {
					end--
				}
				return boltMeta{txid: known.txid, freelist: id, pages: end}, true
			}
		}
	}
	m, err := newestMeta(file)
	return m, err == nil
}

// reachable adds the pages below one to a set, as far as they can be followed.
func reachable(file store.File, id, pages uint64, used pageSet) {
	le := binary.LittleEndian
	page := make([]byte, pageSize)
	if id < boltMetas || id >= pages || used.has(id) || readFull(file, page, int64(id)*pageSize) != nil {
		return
	}
	more := uint64(le.Uint32(page[12:]))
	for i := id; i <= id+more && i < pages; i++ {
		used.add(i)
	}
	for i := range int(le.Uint16(page[10:])) {
		at := boltPageHeader + 16*i
		if at+16 > len(page) {
			return
		}
		switch flags := le.Uint16(page[8:]); {
		case flags&boltBranch != 0:
			reachable(file, le.Uint64(page[at+8:]), pages, used)
		case flags&boltLeaf != 0 && le.Uint32(page[at:])&1 != 0: // a table: its root's number is its value
			if v := at + int(le.Uint32(page[at+4:])) + int(le.Uint32(page[at+8:])); v+8 <= len(page) {
				reachable(file, le.Uint64(page[v:]), pages, used)
			}
		}
	}
}

// leaf takes what opens out of a leaf page. A small table is a page inside
// another one's value.
func (s *salvage) leaf(page []byte, sure bool) {
	le := binary.LittleEndian
	if len(page) < boltPageHeader || le.Uint16(page[8:])&boltLeaf == 0 {
		return
	}
	for i := range int(le.Uint16(page[10:])) {
		at := boltPageHeader + 16*i
		if at+16 > len(page) {
			return
		}
		pos, k, v := uint64(le.Uint32(page[at+4:])), uint64(le.Uint32(page[at+8:])), uint64(le.Uint32(page[at+12:]))
		from := uint64(at) + pos
		if from+k+v > uint64(len(page)) {
			continue
		}
		name, val := page[from:from+k], page[from+k:from+k+v]
		switch {
		case le.Uint32(page[at:])&1 != 0 && len(val) > 16: // a table inside the page
			s.leaf(val[16:], sure)
		case string(name) == string(keySummary):
			s.takeSummary(val)
		case len(name) == 16:
			s.take(name, val, sure)
		}
	}
}

func (s *salvage) takeSummary(sealed []byte) {
	plain, err := s.x.box.Open(nil, sealed, keySummary)
	if err != nil {
		return
	}
	// Without tags there may be several: the newest is right.
	if got, err := unmarshalSummary(plain); err == nil && (s.summary == nil || got.commits > s.summary.commits) {
		s.summary = got
	}
}

func (s *salvage) take(name, sealed []byte, sure bool) {
	for t := tableInode; t <= tableMax; t++ {
		k := keyFromBytes(t, name)
		val, err := s.x.unseal(k, sealed)
		if err != nil {
			continue
		}
		if !s.sure[k] {
			s.found.put(k, val)
			if s.sure[k] = sure; !sure {
				s.doubtful++
			}
		}
		return
	}
}
