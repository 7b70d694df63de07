package meta

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"cmkfs/crypto"
	"cmkfs/store"
)

// FormatVersion is the on-disk format this program writes; docs/format.md.
const FormatVersion = 1

const (
	superblockName  = "superblock"
	superblockTemp  = "superblock.new"
	superblockSize  = 4096
	superblockMagic = "CMKFSVOL"
	journalDir      = "journal"
	segmentDir      = "segments"

	// DefaultJournalBytes is the size of one journal file.
	DefaultJournalBytes = 16 << 20
	minJournalBytes     = 256 << 10
	maxJournalBytes     = 1 << 30
	// segmentPages is how far a segment grows: 256 MiB.
	segmentPages = 64 << 10
)

// features names what a reader must know to use a volume. A name it does not
// know makes it refuse the volume.
var features = []string{"journal-kv", "segments-gcm16k", "index-tags"}

// Superblock is what a volume says about itself without a key.
type Superblock struct {
	Version      uint32
	VolumeID     [16]byte
	Created      time.Time // to the second
	JournalBytes int64
	Quota        uint64 // bytes, 0 = none
	AEKID        string // which account encryption key SealedVEK is under
	SealedVEK    []byte
	Commitment   []byte // of the volume key, context VolumeID
	mac          []byte // over the fixed part, under the volume key
}

// ErrNoVolume reports a store without a superblock.
var ErrNoVolume = errors.New("there is no volume here")

// fixed encodes the part that never changes in a volume's life.
func (s *Superblock) fixed() []byte {
	le := binary.LittleEndian
	b := append([]byte(superblockMagic), 0, 0, 0, 0)
	le.PutUint32(b[8:], s.Version)
	b = append(b, s.VolumeID[:]...)
	b = le.AppendUint64(b, uint64(s.Created.Unix()))
	b = le.AppendUint64(b, uint64(s.JournalBytes))
	b = le.AppendUint64(b, s.Quota)
	b = append(b, byte(len(features)))
	for _, f := range features {
		b = append(append(b, byte(len(f))), f...)
	}
	return b
}

// seal authenticates the fixed part with the volume key.
func (s *Superblock) seal(k crypto.Key) {
	s.mac = crypto.Commit(crypto.Derive(k, "superblock"), s.fixed())
}

// verify checks a superblock against the volume key.
func (s *Superblock) verify(k crypto.Key) error {
	if !crypto.CheckCommit(k, s.VolumeID[:], s.Commitment) {
		return ErrWrongKey
	}
	if !crypto.CheckCommit(crypto.Derive(k, "superblock"), s.fixed(), s.mac) {
		return &CorruptError{Where: superblockName, Err: crypto.ErrAuth}
	}
	return nil
}

// ErrWrongKey reports a key that is not the volume's.
var ErrWrongKey = errors.New("the key is not this volume's")

func (s *Superblock) marshal() []byte {
	b := s.fixed()
	b = append(b, s.mac...)
	for _, f := range [][]byte{[]byte(s.AEKID), s.SealedVEK, s.Commitment} {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(f))), f...)
	}
	b = append(b, make([]byte, superblockSize-sha256.Size-len(b))...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func unmarshalSuperblock(b []byte) (*Superblock, error) {
	corrupt := func(what string) error {
		return &CorruptError{Where: superblockName, Err: errors.New(what)}
	}
	if len(b) != superblockSize || !bytes.HasPrefix(b, []byte(superblockMagic)) {
		return nil, corrupt("this is not a cmkfs superblock")
	}
	// The version comes before the checksum: a later format may move the latter.
	s := &Superblock{Version: binary.LittleEndian.Uint32(b[8:])}
	if s.Version != FormatVersion {
		return nil, &VersionError{Have: s.Version, Min: FormatVersion, Max: FormatVersion}
	}
	body, sum := b[:superblockSize-sha256.Size], b[superblockSize-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, corrupt("checksum does not match")
	}
	d := decoder{b: body[12:]}
	copy(s.VolumeID[:], d.take(16))
	s.Created = time.Unix(int64(d.u64()), 0)
	s.JournalBytes = int64(d.u64())
	s.Quota = d.u64()
	for range d.u8() {
		if name := string(d.take(int(d.u8()))); !slices.Contains(features, name) {
			return nil, fmt.Errorf("the volume uses the feature %q, which this program does not know", name)
		}
	}
	s.mac = d.take(crypto.CommitSize)
	field := func() []byte {
		n := d.take(2)
		if n == nil {
			return nil
		}
		return d.take(int(binary.LittleEndian.Uint16(n)))
	}
	s.AEKID, s.SealedVEK, s.Commitment = string(field()), field(), field()
	if bytes.Count(d.b, []byte{0}) != len(d.b) {
		return nil, corrupt("bytes behind the last field")
	}
	if d.bad || s.JournalBytes < minJournalBytes || s.JournalBytes > maxJournalBytes || s.JournalBytes%pageSize != 0 {
		return nil, corrupt("malformed fields")
	}
	return s, nil
}

// ReadSuperblock reads a volume's superblock; it needs no key. Without one it
// fails with ErrNoVolume, on a damaged one with *CorruptError, on a later
// format with *VersionError. It may be called while the volume is in use.
func ReadSuperblock(st store.Store) (*Superblock, error) {
	b, err := readSuperblock(st)
	if err != nil {
		return nil, err
	}
	sb, err := unmarshalSuperblock(b)
	if err == nil {
		return sb, nil
	}
	// Reseal may have replaced the file after it was opened, and overwritten it
	// before it was read.
	if again, readErr := readSuperblock(st); readErr == nil && !bytes.Equal(again, b) {
		return unmarshalSuperblock(again)
	}
	return nil, err
}

func readSuperblock(st store.Store) ([]byte, error) {
	f, err := st.Open(superblockName)
	if errors.Is(err, store.ErrNotExist) {
		return nil, ErrNoVolume
	}
	if err != nil {
		return nil, fmt.Errorf("open superblock: %w", err)
	}
	defer f.Close()
	b := make([]byte, superblockSize)
	if n, err := f.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(b)) {
		if errors.Is(err, io.EOF) {
			return nil, &CorruptError{Where: superblockName, Err: errShort}
		}
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	return b, nil
}

// summary is sealed into the index by every checkpoint.
type summary struct {
	seq       uint64 // the index contains all operations up to this one
	commits   uint64 // number of checkpoints
	usedPages uint64
	files     uint64
	nextIno   uint64
	nextSeg   uint64         // no segment numbered so or higher existed
	setHash   crypto.SetHash // over every sealed value of the index
	session   uint64
	replies   map[uint64]uint64 // results of requests that may be delivered again
}

const summaryVersion = 1

func (s *summary) marshal() []byte {
	le := binary.LittleEndian
	b := []byte{summaryVersion}
	for _, v := range [...]uint64{s.seq, s.commits, s.usedPages, s.files, s.nextIno, s.nextSeg} {
		b = le.AppendUint64(b, v)
	}
	b = append(b, s.setHash[:]...)
	b = le.AppendUint64(b, s.session)
	b = le.AppendUint32(b, uint32(len(s.replies)))
	for _, unique := range slices.Sorted(maps.Keys(s.replies)) {
		b = le.AppendUint64(b, unique)
		b = le.AppendUint64(b, s.replies[unique])
	}
	return b
}

func unmarshalSummary(b []byte) (*summary, error) {
	d := decoder{b: b}
	if d.u8() != summaryVersion {
		return nil, errVersion
	}
	s := &summary{seq: d.u64(), commits: d.u64(), usedPages: d.u64(), files: d.u64(), nextIno: d.u64(), nextSeg: d.u64()}
	copy(s.setHash[:], d.take(len(s.setHash)))
	s.session = d.u64()
	n := d.count(16)
	s.replies = make(map[uint64]uint64, n)
	last := uint64(0)
	for i := range n {
		unique := d.u64()
		d.bad = d.bad || i > 0 && unique <= last
		s.replies[unique], last = d.u64(), unique
	}
	if d.bad || len(d.b) > 0 {
		return nil, errShort
	}
	return s, nil
}

// volumeKeys are the keys a volume key yields, one per purpose.
type volumeKeys struct {
	journal crypto.Key // a journal file's key is derived from it with the file's salt
	segment crypto.Key // likewise a segment's
	index   *crypto.Box
	names   *crypto.NameHasher
	xattrs  *crypto.NameHasher
	hasher  *crypto.SetHasher
	tags    *crypto.Box
	pages   *crypto.PageTagger
	// tagsFile authenticates the header of index.tags; nothing is sealed with it.
	tagsFile crypto.Key
}

func deriveKeys(k crypto.Key) *volumeKeys {
	return &volumeKeys{
		journal: crypto.Derive(k, "journal"),
		segment: crypto.Derive(k, "segment"),
		index:   crypto.NewBox(crypto.Derive(k, "index")),
		names:   crypto.NewNameHasher(crypto.Derive(k, "names")),
		xattrs:  crypto.NewNameHasher(crypto.Derive(k, "xattrs")),
		hasher:  crypto.NewSetHasher(crypto.Derive(k, "sethash")),
		tags:    crypto.NewBox(crypto.Derive(k, "tags")),
		pages:   crypto.NewPageTagger(crypto.Derive(k, "pages")),

		tagsFile: crypto.Derive(k, "tags header"),
	}
}

// fileHeader begins every journal file and segment: one page, authenticated by
// message 0 of the file's own key.
type fileHeader struct {
	magic    string // 8 bytes
	volumeID [16]byte
	number   uint64 // segment number or journal epoch
	first    uint64 // journal: number of the first operation; segments: 0
	salt     [32]byte
}

const (
	journalMagic = "CMKFSJNL"
	segmentMagic = "CMKFSSEG"
	headerFixed  = 8 + 4 + 16 + 8 + 8 + 32
)

func (h *fileHeader) fixed() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, pageSize)
	b = append(b, h.magic...)
	b = le.AppendUint32(b, FormatVersion)
	b = append(b, h.volumeID[:]...)
	b = le.AppendUint64(b, h.number)
	b = le.AppendUint64(b, h.first)
	return append(b, h.salt[:]...)
}

// sequence is the file's own cipher. base is the volume's journal or segment key.
func (h *fileHeader) sequence(base crypto.Key) *crypto.Sequence {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], h.number)
	return crypto.NewSequence(crypto.Derive(base, h.magic, h.salt[:], n[:]))
}

func (h *fileHeader) marshal(seq *crypto.Sequence) []byte {
	b := h.fixed()
	b = seq.Seal(b, 0, nil, b[:headerFixed:headerFixed])
	return append(b, make([]byte, pageSize-len(b))...)
}

// readHeader authenticates a file's first page and returns its cipher. An
// all-zero page, a file that was never begun, returns nil without error.
func readHeader(b []byte, magic string, volumeID [16]byte, base crypto.Key) (*fileHeader, *crypto.Sequence, error) {
	if len(b) < pageSize {
		return nil, nil, errShort
	}
	if b = b[:pageSize]; bytes.Count(b, []byte{0}) == len(b) {
		return nil, nil, nil
	}
	d := decoder{b: b}
	h := &fileHeader{magic: string(d.take(8))}
	if h.magic != magic {
		return nil, nil, errors.New("wrong magic number")
	}
	if v := d.u32(); v != FormatVersion {
		return nil, nil, &VersionError{Have: v, Min: FormatVersion, Max: FormatVersion}
	}
	copy(h.volumeID[:], d.take(16))
	h.number, h.first = d.u64(), d.u64()
	copy(h.salt[:], d.take(32))
	if h.volumeID != volumeID {
		return nil, nil, errors.New("the file belongs to another volume")
	}
	seq := h.sequence(base)
	if _, err := seq.Open(nil, 0, b[headerFixed:headerFixed+tagSize], b[:headerFixed]); err != nil {
		return nil, nil, err
	}
	return h, seq, nil
}
