package meta

import (
	"fmt"
)

// tx computes one operation: its reads see the volume's state and its own
// changes, its changes reach journal and state together in commit. The state
// lock is held exclusively from newTx to commit or abandonment; giving up half
// way needs no clean-up, because nothing outside the tx has changed.
type tx struct {
	v     *Volume
	c     Caller
	now   uint64
	muts  []mutation
	local map[key][]byte // effective values of the keys in muts

	result  uint64 // what a repeated request is answered with: an inode number or a count
	alloc   []block
	freed   []block
	pages   int64 // change of the mapped pages of the volume
	files   int64 // change of the inode count
	nextIno uint64
	orphans []uint64  // inodes that became orphans
	named   []uint64  // orphans that got a name
	reaped  []uint64  // orphans that are gone
	inlined uint64    // inode that got small data, for the migration; 0 = none
	regions []*region // as they become
	torn    []chunk   // small pieces were written to them
	sharing bool      // a block got a further reference
}

// mutation is one change of the state as the journal records it.
type mutation struct {
	kind uint8
	key  key
	off  uint32 // mutPatch: where data goes
	data []byte
}

const (
	mutPut    = 1 // value becomes data
	mutDelete = 2
	mutPatch  = 3 // data is written at off; a gap is filled with zeros
)

// newTx starts an operation. The caller holds v.mu exclusively.
func (v *Volume) newTx(c Caller) *tx {
	return &tx{v: v, c: c, now: timeToDisk(v.now()), local: make(map[key][]byte, 4), nextIno: v.nextIno}
}

// get returns the effective value of a key, nil if there is none. The slice
// must not be modified.
func (t *tx) get(k key) ([]byte, error) {
	if val, ok := t.local[k]; ok {
		return val, nil
	}
	return t.v.get(k)
}

func (t *tx) put(k key, val []byte) {
	t.muts = append(t.muts, mutation{kind: mutPut, key: k, data: val})
	t.local[k] = val
}

func (t *tx) del(k key) {
	t.muts = append(t.muts, mutation{kind: mutDelete, key: k})
	t.local[k] = nil
}

// patch writes data at off into a value that may be shorter or missing.
func (t *tx) patch(k key, off int, data []byte) error {
	old, err := t.get(k)
	if err != nil {
		return err
	}
	t.muts = append(t.muts, mutation{kind: mutPatch, key: k, off: uint32(off), data: data})
	t.local[k] = patched(old, off, data)
	return nil
}

// patched returns a new value: old with data written at off.
func patched(old []byte, off int, data []byte) []byte {
	out := make([]byte, max(len(old), off+len(data)))
	copy(out, old)
	copy(out[off:], data)
	return out
}

// inode reads an inode; ErrStale if it does not exist.
func (t *tx) inode(ino uint64) (*inode, error) {
	val, err := t.get(key{tableInode, ino, 0})
	if err != nil {
		return nil, err
	}
	n, err := decodeInode(ino, val)
	if err == nil {
		t.v.atimes.show(n)
	}
	return n, err
}

func decodeInode(ino uint64, val []byte) (*inode, error) {
	if val == nil {
		return nil, ErrStale
	}
	n, err := unmarshalInode(ino, val)
	if err != nil {
		return nil, &CorruptError{Where: key{tableInode, ino, 0}.String(), Err: err}
	}
	return n, nil
}

func (t *tx) putInode(n *inode) { t.put(key{tableInode, n.ino, 0}, n.marshal()) }

// newInode makes an inode number and its attributes; the caller puts it.
func (t *tx) newInode(mode, uid, gid uint32) *inode {
	n := &inode{ino: t.nextIno, mode: mode, nlink: 1, uid: uid, gid: gid, atime: t.now, mtime: t.now, ctime: t.now, btime: t.now}
	t.nextIno++
	t.files++
	return n
}

// region reads the block pointers of a region of a file. They must not be modified.
func (t *tx) region(ino, idx uint64) ([]pointer, error) {
	if val, ok := t.local[key{tableRegion, ino, idx}]; ok {
		return decodeRegion(ino, idx, val)
	}
	r, err := t.v.regionOf(ino, idx)
	if err != nil {
		return nil, err
	}
	return r.ptrs, nil
}

func decodeRegion(ino, idx uint64, val []byte) ([]pointer, error) {
	ptrs, err := unmarshalRegion(val)
	if err != nil {
		return nil, &CorruptError{Where: key{tableRegion, ino, idx}.String(), Err: err}
	}
	return ptrs, nil
}

func (t *tx) putRegion(ino, idx uint64, ptrs []pointer) {
	if len(ptrs) == 0 {
		t.del(key{tableRegion, ino, idx})
		return
	}
	t.put(key{tableRegion, ino, idx}, marshalRegion(ptrs))
	t.regions = append(t.regions, &region{ino, idx, ptrs})
}

// replay returns the result of a request that was applied before its answer
// could be sent. The caller holds v.mu.
func (v *Volume) replayed(c Caller) (uint64, bool) {
	if c.Session == 0 || c.Session != v.session {
		return 0, false
	}
	r, ok := v.replies[c.Unique]
	return r, ok
}

// commit appends the operation to the journal's pending records and applies
// it. The caller holds v.mu, releases it, and then calls v.written(seq) before
// it answers. An operation without changes needs neither.
func (t *tx) commit() (seq uint64, err error) {
	v := t.v
	if err := v.stopped(); err != nil {
		return 0, err
	}
	if len(t.muts) == 0 && len(t.freed) == 0 {
		return 0, nil
	}
	op := operation{
		seq: v.seq + 1, session: t.c.Session, unique: t.c.Unique, result: t.result,
		usedPages: uint64(int64(v.usedPages) + t.pages), files: uint64(int64(v.files) + t.files), nextIno: t.nextIno,
		alloc: t.alloc, freed: t.freed, muts: t.muts,
	}
	v.journal.append(&op)
	if err := v.apply(&op, t.local); err != nil {
		// Our own mutations cannot fail to apply; if they do, memory and journal differ.
		v.fail(fmt.Errorf("apply an operation: %w", err))
		return 0, ErrFailed
	}
	for _, r := range t.regions {
		if t.local[key{tableRegion, r.ino, r.index}] != nil { // not deleted after all
			v.decoded.region(r.ino, r.index).Store(r)
		}
	}
	for _, ino := range t.orphans {
		v.orphans[ino] = struct{}{}
	}
	for _, ino := range t.named {
		delete(v.orphans, ino)
	}
	for _, ino := range t.reaped {
		delete(v.orphans, ino)
		delete(v.inline, ino)
	}
	if t.inlined != 0 {
		v.inline[t.inlined] = struct{}{}
	}
	v.torn.written(t.torn)
	return op.seq, nil
}

// apply changes the in-memory state by one operation: the only function that
// does, for a live operation and for recovery. local holds the effective values
// when they are known already (nil during recovery).
func (v *Volume) apply(op *operation, local map[key][]byte) error {
	for i := range op.muts {
		m := &op.muts[i]
		switch {
		case local != nil:
			v.put(m.key, local[m.key])
		case m.kind == mutPut:
			v.put(m.key, m.data)
		case m.kind == mutDelete:
			v.put(m.key, nil)
		case m.kind == mutPatch:
			old, err := v.get(m.key)
			if err != nil {
				return err
			}
			v.put(m.key, patched(old, int(m.off), m.data))
		}
	}
	v.seq, v.usedPages, v.files, v.nextIno = op.seq, op.usedPages, op.files, op.nextIno
	if op.session != 0 {
		if op.session != v.session {
			v.session = op.session
			clear(v.replies)
		}
		v.replies[op.unique] = op.result
	}
	if len(op.alloc) > 0 {
		v.wroteBlocks.Store(op.seq)
	}
	v.space.account(op)
	v.noteChangesLocked()
	return nil
}

// put changes the value of a key; nil deletes it. The caller holds v.mu exclusively.
func (v *Volume) put(k key, val []byte) {
	v.active.put(k, val)
	v.decoded.drop(k)
	v.sharing = v.sharing || k.t == tableShared
}

// get returns the effective value of a key. The caller holds v.mu in either
// mode; the slice must not be modified.
func (v *Volume) get(k key) ([]byte, error) {
	if val, ok := v.active.get(k); ok {
		return val, nil
	}
	if v.frozen != nil {
		if val, ok := v.frozen.get(k); ok {
			return val, nil
		}
	}
	return v.index.get(k)
}

// scan calls fn for every value of (from.t, from.a) with b ≥ from.b in order
// until fn returns false. The caller holds v.mu; fn must not lock it.
func (v *Volume) scan(from key, fn func(k key, val []byte) bool) error {
	return v.scanSpan(span{from: from}, fn)
}

func (v *Volume) scanSpan(in span, fn func(k key, val []byte) bool) error {
	return v.index.scan(in.from.t, func(it *indexIter) error {
		layers := []*overlay{v.active}
		if v.frozen != nil {
			layers = append(layers, v.frozen)
		}
		return mergeScan(in, layers, it, fn)
	})
}
