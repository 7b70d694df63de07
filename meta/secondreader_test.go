package meta_test

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
)

// secondReader reads a volume with nothing but docs/format.md: it shares no
// code with the packages meta and crypto, and so proves that the document says
// enough, and that it is true. It reads undamaged volumes only.
type secondReader struct {
	dir     string
	volume  []byte // id
	vek     []byte
	values  map[valueKey][]byte
	seq     uint64 // the last operation in values
	through uint64 // the last operation of which the index has values
}

type valueKey struct {
	table byte
	a, b  uint64
}

var le, be = binary.LittleEndian, binary.BigEndian

func derive(key []byte, purpose string, context ...[]byte) []byte {
	info := []byte("cmkfs/v1")
	for _, part := range append([][]byte{[]byte(purpose)}, context...) {
		info = append(be.AppendUint32(info, uint32(len(part))), part...)
	}
	out, err := hkdf.Key(sha256.New, key, nil, string(info), 32)
	if err != nil {
		panic(err)
	}
	return out
}

func aesBlock(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return b
}

func gcmOpen(key, nonce, sealed, ad []byte) ([]byte, error) {
	gcm, err := cipher.NewGCM(aesBlock(key))
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, nonce, sealed, ad)
}

// cmac256 is AES-256-CMAC, RFC 4493.
func cmac256(key, msg []byte) []byte {
	b := aesBlock(key)
	twice := func(in []byte) []byte {
		out := make([]byte, 16)
		for i := range in {
			out[i] = in[i] << 1
			if i < 15 {
				out[i] |= in[i+1] >> 7
			}
		}
		if in[0]&0x80 != 0 {
			out[15] ^= 0x87
		}
		return out
	}
	k := make([]byte, 16)
	b.Encrypt(k, k)
	k = twice(k)
	if len(msg) == 0 || len(msg)%16 != 0 {
		k = twice(k)
		msg = append(bytes.Clone(msg), 0x80)
		msg = append(msg, make([]byte, (16-len(msg)%16)%16)...)
	}
	x := make([]byte, 16)
	for i := 0; i < len(msg); i += 16 {
		for j := range x {
			x[j] ^= msg[i+j]
			if i+16 == len(msg) {
				x[j] ^= k[j]
			}
		}
		b.Encrypt(x, x)
	}
	return x
}

// boxOpen is XAES-256-GCM.
func boxOpen(key, sealed, ad []byte) ([]byte, error) {
	if len(sealed) < 40 {
		return nil, errors.New("too short")
	}
	nonce := sealed[:24]
	var derived []byte
	for i := range byte(2) {
		derived = append(derived, cmac256(key, append([]byte{0, i + 1, 'X', 0}, nonce[:12]...))...)
	}
	return gcmOpen(derived, nonce[12:], sealed[24:], ad)
}

// readVolume reads superblock, index and journal of a volume.
func readVolume(dir string, vek []byte) (*secondReader, error) {
	r := &secondReader{dir: dir, vek: vek, values: map[valueKey][]byte{}}
	sb, err := os.ReadFile(filepath.Join(dir, "superblock"))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(sb[:4064])
	if len(sb) != 4096 || string(sb[:8]) != "CMKFSVOL" || le.Uint32(sb[8:]) != 1 || !bytes.Equal(sum[:], sb[4064:]) {
		return nil, errors.New("superblock")
	}
	r.volume = sb[12:28]
	at := 53
	for range sb[52] {
		at += 1 + int(sb[at])
	}
	if !bytes.Equal(sb[at:at+32], derive(derive(vek, "superblock"), "key commitment", sb[:at])) {
		return nil, errors.New("superblock: not authentic")
	}
	at += 32
	var fields [][]byte
	for range 3 {
		n := int(le.Uint16(sb[at:]))
		fields = append(fields, sb[at+2:at+2+n])
		at += 2 + n
	}
	if !bytes.Equal(fields[2], derive(vek, "key commitment", r.volume)) {
		return nil, errors.New("superblock: another key")
	}
	if err := r.readTags(); err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	if err := r.readIndex(); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	if err := r.readJournal(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return r, nil
}

// readTags compares the pages of index.db with their tags. The list of free
// pages fits one page here.
func (r *secondReader) readTags() error {
	b, err := os.ReadFile(filepath.Join(r.dir, "index.tags"))
	if err != nil {
		return err
	}
	if _, err := r.fileKey(b, "CMKFSTAG", "tags header"); err != nil {
		return err
	}
	tags := map[uint64][]byte{}
	var txid uint64
	for pos, n := 4096, uint32(0); pos < len(b); n++ {
		end := pos + 16 + int(le.Uint32(b[pos+8:])) + 40
		plain, err := boxOpen(derive(r.vek, "tags"), b[pos+16:end], slices.Concat([]byte("tags"), b[44:76], b[pos:pos+16]))
		if err != nil || string(b[pos:pos+4]) != "cmkT" || b[pos+5] != 1 || le.Uint32(b[pos+12:]) != n {
			return fmt.Errorf("record %d: %v", n, err)
		}
		txid, plain, pos = le.Uint64(plain), plain[8:], end
		for len(plain) > 0 {
			first, count := le.Uint64(plain), uint64(le.Uint32(plain[8:]))
			for i := range count {
				tags[first+i] = plain[12+16*i : 28+16*i]
			}
			plain = plain[12+16*count:]
		}
	}
	db, err := os.ReadFile(filepath.Join(r.dir, "index.db"))
	if err != nil {
		return err
	}
	page := func(id uint64) []byte { return db[id*4096 : (id+1)*4096] }
	meta := page(txid % 2)
	free := page(le.Uint64(meta[48:]))
	used := map[uint64]bool{txid % 2: true}
	for id := uint64(2); id < le.Uint64(meta[56:]); id++ {
		used[id] = true
	}
	for i := range uint64(le.Uint16(free[10:])) {
		delete(used, le.Uint64(free[16+8*i:]))
	}
	key := derive(r.vek, "pages")
	for id := range used {
		mac := hmac.New(sha256.New, key)
		mac.Write(be.AppendUint64(nil, id))
		mac.Write(page(id))
		if !bytes.Equal(mac.Sum(nil)[:16], tags[id]) {
			return fmt.Errorf("page %d does not match its tag", id)
		}
	}
	return nil
}

func (r *secondReader) readIndex() error {
	db, err := bbolt.Open(filepath.Join(r.dir, "index.db"), 0, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	box := derive(r.vek, "index")
	return db.View(func(tx *bbolt.Tx) error {
		for i, name := range []string{"inode", "dirent", "xattr", "region", "page", "segment", "shared", "orphan"} {
			table := byte(i + 1)
			err := tx.Bucket([]byte(name)).ForEach(func(k, v []byte) error {
				plain, err := boxOpen(box, v, append([]byte{'i', table}, k...))
				r.values[valueKey{table, be.Uint64(k), be.Uint64(k[8:])}] = plain
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		summary, err := boxOpen(box, tx.Bucket([]byte("summary")).Get([]byte("summary")), []byte("summary"))
		if err != nil || summary[0] != 1 {
			return fmt.Errorf("summary: %w", err)
		}
		r.seq = le.Uint64(summary[1:])
		if sealed := tx.Bucket([]byte("summary")).Get([]byte("through")); sealed != nil {
			through, err := boxOpen(box, sealed, []byte("through"))
			if err != nil {
				return fmt.Errorf("through: %w", err)
			}
			r.through = le.Uint64(through)
		}
		return nil
	})
}

// fileKey returns the key of a journal file or segment from its header.
func (r *secondReader) fileKey(b []byte, magic, purpose string) ([]byte, error) {
	if string(b[:8]) != magic || le.Uint32(b[8:]) != 1 || !bytes.Equal(b[12:28], r.volume) {
		return nil, errors.New("header")
	}
	key := derive(derive(r.vek, purpose), magic, b[44:76], b[28:36])
	_, err := gcmOpen(key, make([]byte, 12), b[76:92], b[:76])
	return key, err
}

func nonceOf(n uint64) []byte { return be.AppendUint64(make([]byte, 4), n) }

// journalFile is what a journal file holds: the plaintexts of its records.
type journalFile struct {
	epoch, first uint64
	records      []journalRecord
}

type journalRecord struct {
	first uint64
	plain []byte
}

func (r *secondReader) readJournal() error {
	paths, err := filepath.Glob(filepath.Join(r.dir, "journal", "*"))
	if err != nil {
		return err
	}
	var files []journalFile
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".new") || bytes.Count(b[:4096], []byte{0}) == 4096 {
			continue
		}
		key, err := r.fileKey(b, "CMKFSJNL", "journal")
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		f := journalFile{epoch: le.Uint64(b[28:]), first: le.Uint64(b[36:])}
		for pos, n := 4096, uint64(1); pos+56 <= len(b) && string(b[pos:pos+4]) == "cmkR" && le.Uint64(b[pos+24:]) == n; n++ {
			size := int(le.Uint32(b[pos+8:])) + 16
			plain, err := gcmOpen(key, nonceOf(n), b[pos+40:pos+40+size], b[pos:pos+40])
			if err != nil {
				break
			}
			if b[pos+5] == 1 {
				f.records = append(f.records, journalRecord{le.Uint64(b[pos+16:]), plain})
			}
			pos += (40 + size + 63) / 64 * 64
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b journalFile) int { return cmp.Compare(a.epoch, b.epoch) })
	for i, f := range files {
		for _, rec := range f.records {
			for seq := rec.first; len(rec.plain) > 0; seq++ {
				n := 4 + int(le.Uint32(rec.plain))
				later := slices.ContainsFunc(files[i+1:], func(g journalFile) bool { return g.first <= seq })
				if seq == r.seq+1 && !later {
					r.apply(rec.plain[4:n])
					r.seq = seq
				}
				rec.plain = rec.plain[n:]
			}
		}
	}
	if r.seq < r.through {
		return fmt.Errorf("the journal ends at operation %d, the index has values of operation %d", r.seq, r.through)
	}
	return nil
}

// apply makes the changes of one operation.
func (r *secondReader) apply(op []byte) {
	at := 48
	for range 2 {
		at += 4 + 16*int(le.Uint32(op[at:]))
	}
	changes := le.Uint32(op[at:])
	at += 4
	for range changes {
		kind, k := op[at], valueKey{op[at+1], le.Uint64(op[at+2:]), le.Uint64(op[at+10:])}
		off, n := int(le.Uint32(op[at+18:])), int(le.Uint32(op[at+22:]))
		data := op[at+26 : at+26+n]
		at += 26 + n
		switch kind {
		case 1:
			r.values[k] = data
		case 2:
			delete(r.values, k)
		case 3:
			val := make([]byte, max(len(r.values[k]), off+n))
			copy(val, r.values[k])
			copy(val[off:], data)
			r.values[k] = val
		}
	}
}

// lookup finds the inode of a path.
func (r *secondReader) lookup(path string) (uint64, error) {
	ino := uint64(1)
	names := derive(r.vek, "names")
next:
	for name := range strings.SplitSeq(path, "/") {
		hash := 16 + be.Uint64(cmac256(names, append(be.AppendUint64(nil, ino), name...)))%(1<<62-16)
		for b := r.values[valueKey{2, ino, hash}]; len(b) > 1; {
			n := int(b[13])
			if string(b[14:14+n]) == name {
				ino = le.Uint64(b[1:])
				continue next
			}
			b = b[13+n:]
		}
		return 0, fmt.Errorf("no entry %q", name)
	}
	return ino, nil
}

// readFile returns a file's content.
func (r *secondReader) readFile(path string) ([]byte, error) {
	ino, err := r.lookup(path)
	if err != nil {
		return nil, err
	}
	size := le.Uint64(r.values[valueKey{1, ino, 0}][21:])
	out := make([]byte, (size+4095)/4096*4096)
	for region := uint64(0); region*32*4096 < size; region++ {
		for b := r.values[valueKey{4, ino, region}]; len(b) > 1; b = b[32:] {
			p := b[1:33]
			block, err := r.readBlock(le.Uint64(p[8:]), uint64(le.Uint32(p[4:])), int(p[2]), p[16:32])
			if err != nil {
				return nil, err
			}
			copy(out[(region*32+uint64(p[0]))*4096:], block[int(p[3])*4096:(int(p[3])+int(p[1]))*4096])
		}
	}
	for page := range uint64(len(out) / 4096) {
		if b, ok := r.values[valueKey{5, ino, page}]; ok {
			clear(out[page*4096 : (page+1)*4096])
			copy(out[page*4096:], b)
		}
	}
	return out[:size], nil
}

func (r *secondReader) readBlock(segment, page uint64, pages int, tag []byte) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, "segments", fmt.Sprintf("%016x", segment)))
	if err != nil {
		return nil, err
	}
	key, err := r.fileKey(b, "CMKFSSEG", "segment")
	if err != nil {
		return nil, err
	}
	sealed := append(bytes.Clone(b[page*4096:page*4096+uint64(pages)*4096]), tag...)
	return gcmOpen(key, nonceOf(page), sealed, le.AppendUint32([]byte("blk"), uint32(pages)))
}
