package meta

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cmkfs/crypto"
	"cmkfs/store"
)

// tagFile is index.tags, the commit log of the index: for every page that a
// state of index.db uses there is a tag in it, and a state counts only when
// its tags are durable. bbolt has no page checksums; with the tags every page is
// authenticated before bbolt sees it, as a page of this very state.
//
// A record holds the tags of the pages a checkpoint has written. The others of
// its state are unchanged, since bbolt copies what it changes. So a checkpoint
// costs a tag per page written, and one flush.
type tagFile struct {
	st       store.Store
	box      *crypto.Box
	tagger   *crypto.PageTagger
	base     crypto.Key // the header's key is derived from it
	volumeID [16]byte

	file   store.File
	ad     []byte // what binds a record to its file: the header's salt
	record uint32 // number of the next record
	end    int64  // where it goes
	state  boltMeta
	used   pageSet // pages of that state
}

const (
	tagsName  = "index.tags"
	tagsTemp  = "index.tags.new"
	tagsMagic = "CMKFSTAG"

	tagMagic  = 0x546b6d63 // cmkT
	tagHeader = 16
	// maxTagRecord bounds the plaintext of a record, in bytes.
	maxTagRecord = 1 << 20
	// tagsSlack is how much longer than needed the file may get, in bytes,
	// besides double.
	tagsSlack = 256 << 10
)

// pageTags are the tags of a state by page number. A page without one has
// zeros, which no page matches but with a chance of 2^-128.
type pageTags struct {
	txid  uint64
	tags  [][tagSize]byte
	fresh []uint64 // the pages that this state's transaction wrote
}

func (t *pageTags) set(id uint64, tag []byte) {
	for id >= uint64(len(t.tags)) {
		t.tags = append(t.tags, make([][tagSize]byte, max(64, len(t.tags)/4))...)
	}
	copy(t.tags[id][:], tag)
}

func (t *pageTags) get(id uint64) (tag [tagSize]byte) {
	if id < uint64(len(t.tags)) {
		tag = t.tags[id]
	}
	return tag
}

func newTagFile(st store.Store, keys *volumeKeys, volumeID [16]byte) *tagFile {
	return &tagFile{st: st, box: keys.tags, tagger: keys.pages, base: keys.tagsFile, volumeID: volumeID}
}

// begin makes a new file under a name and leaves it open in f.
func (f *tagFile) begin(name string) error {
	if err := removeAny(f.st, name); err != nil {
		return err
	}
	file, err := f.st.Create(name, 0)
	if err != nil {
		return err
	}
	h := &fileHeader{magic: tagsMagic, volumeID: f.volumeID}
	rand.Read(h.salt[:])
	if _, err := file.WriteAt(h.marshal(h.sequence(f.base)), 0); err != nil {
		return errors.Join(err, file.Close())
	}
	if f.file != nil {
		err = f.file.Close()
	}
	f.file, f.ad, f.record, f.end = file, tagAD(h), 0, pageSize
	return err
}

func tagAD(h *fileHeader) []byte { return append([]byte("tags"), h.salt[:]...) }

// load opens the file and reads it: the tags of the last state that is complete
// in it. What a crash left behind that is overwritten by the next record.
func (f *tagFile) load() (*pageTags, error) {
	file, err := f.st.Open(tagsName)
	if err != nil {
		if errors.Is(err, store.ErrNotExist) {
			err = &CorruptError{Where: tagsName, Err: err}
		}
		return nil, err
	}
	if f.file != nil {
		f.file.Close() // read before
	}
	f.file = file
	page := make([]byte, pageSize)
	if err := readFull(file, page, 0); err != nil {
		return nil, err
	}
	h, _, err := readHeader(page, tagsMagic, f.volumeID, f.base)
	if err == nil && h == nil {
		err = errors.New("the header is empty")
	}
	if err != nil {
		return nil, &CorruptError{Where: tagsName, Err: err}
	}
	f.ad = tagAD(h)
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	tags := &pageTags{}
	var parts [][]byte // of a state in several records
	found := false
	pos := int64(pageSize)
	for n := uint32(0); ; n++ {
		plain, last, length, err := f.read(pos, size, n)
		if err != nil {
			return nil, err
		}
		if length == 0 {
			break
		}
		pos += length
		if parts = append(parts, plain); !last {
			continue
		}
		tags.fresh = nil
		for _, p := range parts {
			if err := tags.apply(p); err != nil {
				return nil, &CorruptError{Where: fmt.Sprintf("%s byte %d", tagsName, pos-length), Err: err}
			}
		}
		parts, found = nil, true
		f.record, f.end = n+1, pos
	}
	if !found {
		return nil, &CorruptError{Where: tagsName, Err: errors.New("it describes no state of the index")}
	}
	return tags, nil
}

// read opens record n at pos; length 0 says that there is none.
func (f *tagFile) read(pos, size int64, n uint32) (plain []byte, last bool, length int64, err error) {
	le := binary.LittleEndian
	if pos+tagHeader > size {
		return nil, false, 0, nil
	}
	head := make([]byte, tagHeader)
	if _, err := f.file.ReadAt(head, pos); err != nil {
		return nil, false, 0, err
	}
	body := int64(le.Uint32(head[8:])) + crypto.BoxOverhead
	if le.Uint32(head) != tagMagic || head[4] != 1 || le.Uint32(head[12:]) != n || body > maxTagRecord+crypto.BoxOverhead || pos+tagHeader+body > size {
		return nil, false, 0, nil
	}
	sealed := make([]byte, body)
	if _, err := f.file.ReadAt(sealed, pos+tagHeader); err != nil {
		return nil, false, 0, err
	}
	plain, err = f.box.Open(nil, sealed, append(f.ad[:len(f.ad):len(f.ad)], head...))
	if err != nil {
		return nil, false, 0, nil
	}
	return plain, head[5] == 1, tagHeader + body, nil
}

// apply takes over what a record says: the transaction, then runs of pages.
func (t *pageTags) apply(plain []byte) error {
	d := decoder{b: plain}
	t.txid = d.u64()
	for len(d.b) > 0 && !d.bad {
		first := d.u64()
		n := d.count(tagSize)
		if first > 1<<40 {
			return errShort
		}
		for i := range n {
			t.set(first+uint64(i), d.take(tagSize))
			t.fresh = append(t.fresh, first+uint64(i))
		}
	}
	if d.bad {
		return errShort
	}
	return nil
}

// append writes records with the tags of a state's pages that are not in
// without, and makes them durable: from then on the state counts. tag appends
// the tag of a page. An error before the flush leaves the state before.
func (f *tagFile) append(m boltMeta, used, without pageSet, tag func(dst []byte, first uint64, n int) ([]byte, error)) error {
	le := binary.LittleEndian
	record, end := f.record, f.end
	plain := le.AppendUint64(nil, m.txid)
	write := func(last byte) error {
		head := le.AppendUint32(nil, tagMagic)
		head = append(head, 1, last, 0, 0)
		head = le.AppendUint32(head, uint32(len(plain)))
		head = le.AppendUint32(head, record)
		out := f.box.Seal(head[:tagHeader:tagHeader], plain, append(f.ad[:len(f.ad):len(f.ad)], head...))
		_, err := f.file.WriteAt(out, end)
		record, end, plain = record+1, end+int64(len(out)), le.AppendUint64(plain[:0], m.txid)
		return err
	}
	const most = 64 // pages in a run
	add := func(first uint64, n int) (err error) {
		if len(plain)+12+n*tagSize > maxTagRecord {
			if err := write(0); err != nil {
				return err
			}
		}
		plain = le.AppendUint32(le.AppendUint64(plain, first), uint32(n))
		plain, err = tag(plain, first, n)
		return err
	}
	err := add(m.page(), 1)
	if err == nil {
		err = used.runs(without, most, add)
	}
	if err == nil {
		err = write(1)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", tagsName, err)
	}
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("flush %s: %v", tagsName, err) // whatever it was: the page cache cannot be trusted now
	}
	f.record, f.end, f.state, f.used = record, end, m, used
	return nil
}

// tagPages tags a run of pages as they are in the index.
func (f *tagFile) tagPages(index io.ReaderAt) func(dst []byte, first uint64, n int) ([]byte, error) {
	buf := make([]byte, 0, 64*pageSize)
	return func(dst []byte, first uint64, n int) ([]byte, error) {
		buf = buf[:n*pageSize]
		if _, err := index.ReadAt(buf, int64(first)*pageSize); err != nil {
			return dst, err
		}
		for i := range n {
			dst = f.tagger.Tag(dst, first+uint64(i), buf[i*pageSize:(i+1)*pageSize])
		}
		return dst, nil
	}
}

// commit makes the state that bbolt has just written, durably, count. An error
// that is ErrFull leaves the state before, and commit can be called again.
func (f *tagFile) commit(index io.ReaderAt) error {
	m, err := newestMeta(index)
	if err != nil {
		return err
	}
	run, err := freelistRun(index, m)
	if err != nil {
		return err
	}
	used, err := usedPages(m, run)
	if err != nil {
		return err
	}
	if f.end > tagsSlack+2*int64(m.pages)*(tagSize+1) {
		err := f.rewrite(index, m, used)
		if !errors.Is(err, store.ErrFull) {
			return err
		}
		// There is no room for a second file, but perhaps for a record.
	}
	return f.append(m, used, f.used, f.tagPages(index))
}

// rewrite replaces the file by one that holds the tags of one state only. A
// crash leaves the old file or the new one; each describes a state that is
// there.
func (f *tagFile) rewrite(index io.ReaderAt, m boltMeta, used pageSet) error {
	old, err := f.load()
	if err == nil && old.txid != f.state.txid {
		err = &CorruptError{Where: tagsName, Err: errors.New("the last checkpoints are missing")}
	}
	if err != nil {
		return err
	}
	next := *f
	next.file = nil
	fresh := f.tagPages(index)
	err = next.begin(tagsTemp)
	if err == nil {
		err = next.append(m, used, nil, func(dst []byte, first uint64, n int) ([]byte, error) {
			for id := first; id < first+uint64(n); id++ {
				if id != m.page() && f.used.has(id) {
					tag := old.get(id) // not computed anew: the page may have been damaged since
					dst = append(dst, tag[:]...)
				} else if dst, err = fresh(dst, id, 1); err != nil {
					return dst, err
				}
			}
			return dst, nil
		})
	}
	if err != nil {
		if next.file != nil {
			next.file.Close()
		}
		return errors.Join(err, f.st.Remove(tagsTemp))
	}
	if err := f.st.Rename(tagsTemp, tagsName); err != nil {
		return errors.Join(err, next.file.Close())
	}
	f.file.Close() // only read since its last flush
	*f = next
	return f.st.SyncDir("")
}

func (f *tagFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
