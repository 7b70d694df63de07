package meta

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"cmkfs/crypto"
	"cmkfs/store"
)

// A journal file ("slot") is preallocated and zero-filled, so that a flush
// carries data only. It begins with a fileHeader; records follow, each at a
// multiple of recordAlign:
//
//	offset size field
//	0      4    magic "cmkR"
//	4      1    version
//	5      1    kind
//	6      2    zero
//	8      4    plaintext length
//	12     4    zero
//	16     8    operations: number of the first one; marker: the last durable one
//	24     8    record number in this file, from 1: the nonce
//	32     8    number of the last operation known to be durable before this record
//	40     …    sealed plaintext, associated data = the 40 bytes above
const (
	recordMagic   = 0x526b6d63
	recordVersion = 1
	recordHeader  = 40
	recordAlign   = 64
	kindOps       = 1 // operations, numbered consecutively
	kindMarker    = 2 // segment data of all operations up to the number is durable
)

// maxRecord bounds the plaintext of one record of several operations, in bytes.
const maxRecord = 1 << 20

// slot is one journal file. journal.mu guards the fields.
type slot struct {
	name  string
	file  store.File
	epoch uint64 // 0 = holds nothing that is needed
	last  uint64 // number of the last operation in it
	dirty bool   // written since its last flush
}

// journal appends operations to a ring of slots.
type journal struct {
	st       store.Store
	base     crypto.Key
	volumeID [16]byte
	size     int64         // bytes of one slot
	rotated  func()        // told after a slot is full, with no lock held
	noted    func(uint64)  // told before written says so; nil = nobody
	written  atomic.Uint64 // every operation up to this one is in the host's page cache
	durable  atomic.Uint64 // every operation up to this one, with its data, is on the host's disk

	pending struct {
		sync.Mutex
		buf   []byte
		ends  []int // end of each operation in buf
		first uint64
		spare []byte // recycled buf
	}

	mu struct {
		sync.Mutex
		slots  []*slot
		cur    *slot
		cipher *crypto.Sequence
		epoch  uint64
		record uint64 // number of the last record in cur
		pos    int64  // where the page that is being filled begins
		tail   []byte // what that page holds already, fewer than pageSize bytes
		out    []byte // write buffer, page-aligned in the file
		failed error  // the first write error; nothing is written after it
	}
}

// append queues an operation. The caller holds the state lock, which makes the
// queue's order the order of the numbers.
func (j *journal) append(op *operation) {
	p := &j.pending
	p.Lock()
	if len(p.ends) == 0 {
		p.first = op.seq
	}
	p.buf = op.appendTo(p.buf)
	p.ends = append(p.ends, len(p.buf))
	p.Unlock()
}

// write returns once operation seq is in the host's page cache. Whoever gets
// the lock writes what all the others queued meanwhile.
func (j *journal) write(seq uint64) error {
	if j.written.Load() >= seq {
		return nil
	}
	j.mu.Lock()
	rotated, err := j.flushLocked(seq)
	j.mu.Unlock()
	if rotated {
		j.rotated()
	}
	return err
}

func (j *journal) flushLocked(seq uint64) (rotated bool, err error) {
	if j.mu.failed != nil {
		return false, j.mu.failed
	}
	if j.written.Load() >= seq {
		return false, nil
	}
	p := &j.pending
	p.Lock()
	buf, ends, first := p.buf, p.ends, p.first
	p.buf, p.ends, p.spare = p.spare[:0], nil, nil
	p.Unlock()

	// However much was queued, a record fits in one journal file.
	limit := min(maxRecord, int(j.size)-pageSize-recordAlign-recordHeader-tagSize)
	start, from := 0, 0 // bytes and operations already written
	for from < len(ends) {
		to := from + 1
		for to < len(ends) && ends[to]-start <= limit {
			to++
		}
		did, err := j.recordLocked(kindOps, first+uint64(from), buf[start:ends[to-1]])
		if err != nil {
			j.mu.failed = err
			return rotated, err
		}
		rotated = rotated || did
		j.mu.cur.last = first + uint64(to) - 1
		if j.noted != nil {
			j.noted(j.mu.cur.last)
		}
		j.written.Store(j.mu.cur.last)
		start, from = ends[to-1], to
	}
	p.Lock()
	if p.spare == nil && cap(buf) <= 4*maxRecord {
		p.spare = buf[:0]
	}
	p.Unlock()
	return rotated, nil
}

// recordLocked seals one record and writes it, page-aligned, behind the last.
// A crash here leaves a torn record, which recovery takes for the end.
func (j *journal) recordLocked(kind uint8, number uint64, plain []byte) (rotated bool, err error) {
	need := int64(align(recordHeader+len(plain)+tagSize, recordAlign))
	if j.mu.pos+int64(len(j.mu.tail))+need > j.size {
		if pageSize+need > j.size {
			return false, fmt.Errorf("operation of %d bytes does not fit the journal", len(plain))
		}
		if err := j.rotateLocked(); err != nil {
			return false, err
		}
		rotated = true
	}
	le := binary.LittleEndian
	j.mu.record++
	out := append(j.mu.out[:0], j.mu.tail...)
	h := len(out)
	out = le.AppendUint32(out, recordMagic)
	out = append(out, recordVersion, kind, 0, 0)
	out = le.AppendUint32(out, uint32(len(plain)))
	out = le.AppendUint32(out, 0)
	out = le.AppendUint64(out, number)
	out = le.AppendUint64(out, j.mu.record)
	out = le.AppendUint64(out, j.durable.Load())
	out = j.mu.cipher.Seal(out, j.mu.record, plain, out[h:h+recordHeader:h+recordHeader])
	end := align(len(out), recordAlign)
	out = zeroPad(out, align(end, pageSize))
	j.mu.out = out
	if _, err := j.mu.cur.file.WriteAt(out, j.mu.pos); err != nil {
		return rotated, fmt.Errorf("write %s: %w", j.mu.cur.name, err)
	}
	j.mu.cur.dirty = true
	full := end / pageSize * pageSize
	j.mu.pos += int64(full)
	j.mu.tail = append(j.mu.tail[:0], out[full:end]...)
	return rotated, nil
}

func align(n, to int) int { return (n + to - 1) / to * to }

func zeroPad(b []byte, n int) []byte {
	from := len(b)
	b = slices.Grow(b, n-from)[:n]
	clear(b[from:])
	return b
}

// rotateLocked begins a new slot. Its header becomes durable with its first
// records, at its next flush: everybody waits here, and a flush may take long. A
// crash before leaves the header of what was in it before, which the index has,
// and records that nobody can read and nobody was told are durable.
func (j *journal) rotateLocked() error {
	first := j.written.Load() + 1
	var next *slot
	for _, s := range j.mu.slots {
		if s.epoch == 0 {
			next = s
			break
		}
	}
	if next == nil {
		var err error
		if next, err = j.addSlot(fmt.Sprintf("%s/%02d", journalDir, len(j.mu.slots))); err != nil {
			return err
		}
		j.mu.slots = append(j.mu.slots, next)
	}
	h := &fileHeader{magic: journalMagic, volumeID: j.volumeID, number: j.mu.epoch + 1, first: first}
	rand.Read(h.salt[:])
	cipher := h.sequence(j.base)
	if _, err := next.file.WriteAt(h.marshal(cipher), 0); err != nil {
		return fmt.Errorf("begin %s: %w", next.name, err)
	}
	next.epoch, next.last, next.dirty = h.number, first-1, true
	j.mu.epoch, j.mu.cur, j.mu.cipher, j.mu.record = h.number, next, cipher, 0
	j.mu.pos, j.mu.tail = pageSize, j.mu.tail[:0]
	return nil
}

// begin begins the first slot of a process, whose header is durable at once: what
// recovery left out of older ones stays out, whatever is written from here on.
func (j *journal) begin() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.rotateLocked(); err != nil {
		return err
	}
	if err := j.mu.cur.file.Sync(); err != nil {
		return fmt.Errorf("begin %s: %w", j.mu.cur.name, err)
	}
	return nil
}

// slotTemp ends the name of a journal file that is not complete.
const slotTemp = ".new"

// addSlot makes and allocates a journal file. A crash leaves the complete file,
// or one that recovery ignores and the next addSlot removes.
func (j *journal) addSlot(name string) (_ *slot, err error) {
	temp := name + slotTemp
	defer func() {
		if err != nil {
			err = fmt.Errorf("allocate %s: %w", name, err)
		}
	}()
	if err := j.st.Remove(temp); err != nil && !errors.Is(err, store.ErrNotExist) {
		return nil, err
	}
	f, err := j.st.Create(temp, j.size)
	if err != nil {
		return nil, err
	}
	if err = f.Sync(); err == nil {
		if err = j.st.Rename(temp, name); err == nil {
			err = j.st.SyncDir(journalDir)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &slot{name: name, file: f}, nil
}

// marker records that segment data of all operations up to seq is durable.
func (j *journal) marker(seq uint64) error {
	j.mu.Lock()
	if j.mu.failed != nil {
		j.mu.Unlock()
		return j.mu.failed
	}
	rotated, err := j.recordLocked(kindMarker, seq, nil)
	if err != nil {
		j.mu.failed = err
	}
	j.mu.Unlock()
	if rotated {
		j.rotated()
	}
	return err
}

// sync flushes every slot written so far, the oldest first.
func (j *journal) sync() error {
	j.mu.Lock()
	failed := j.mu.failed
	var dirty []*slot
	for _, s := range j.mu.slots {
		if s.dirty {
			s.dirty = false
			dirty = append(dirty, s)
		}
	}
	slices.SortFunc(dirty, func(a, b *slot) int { return cmp.Compare(a.epoch, b.epoch) })
	j.mu.Unlock()
	if failed != nil {
		return failed
	}
	for _, s := range dirty {
		if err := s.file.Sync(); err != nil {
			err = fmt.Errorf("flush %s: %w", s.name, err)
			j.mu.Lock()
			j.mu.failed = err
			j.mu.Unlock()
			return err
		}
	}
	return nil
}

// release frees the slots that hold only operations up to seq. The caller has
// them in a durable index and their dead blocks punched.
func (j *journal) release(seq uint64) {
	j.mu.Lock()
	for _, s := range j.mu.slots {
		if s != j.mu.cur && s.last <= seq {
			s.epoch = 0
		}
	}
	j.mu.Unlock()
}

// used returns how many slots hold operations that no checkpoint contains.
func (j *journal) used() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.mu.slots {
		if s.epoch != 0 {
			n++
		}
	}
	return n
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mu.failed == nil {
		j.mu.failed = ErrClosed
	}
	var err error
	for _, s := range j.mu.slots {
		err = errors.Join(err, s.file.Close())
	}
	return err
}
