package meta

import (
	"encoding/binary"
	"errors"
)

// operation is one entry of the journal: what an operation changed, and the
// volume's totals after it. Replaying it twice gives the same state.
type operation struct {
	seq       uint64 // position in the volume's history, from 1; not encoded: the record knows
	session   uint64 // of the request, 0 = an operation of our own
	unique    uint64
	result    uint64
	usedPages uint64
	files     uint64
	nextIno   uint64
	alloc     []block // blocks written for this operation
	freed     []block // blocks whose last reference it dropped
	muts      []mutation
}

var errOperation = errors.New("malformed operation")

// appendTo encodes the operation, preceded by its length.
func (op *operation) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	start := len(b)
	b = le.AppendUint32(b, 0)
	for _, v := range [...]uint64{op.session, op.unique, op.result, op.usedPages, op.files, op.nextIno} {
		b = le.AppendUint64(b, v)
	}
	for _, blocks := range [...][]block{op.alloc, op.freed} {
		b = le.AppendUint32(b, uint32(len(blocks)))
		for _, x := range blocks {
			b = le.AppendUint64(b, x.seg)
			b = le.AppendUint32(b, x.phys)
			b = le.AppendUint32(b, x.blk)
		}
	}
	b = le.AppendUint32(b, uint32(len(op.muts)))
	for i := range op.muts {
		m := &op.muts[i]
		b = append(b, m.kind, byte(m.key.t))
		b = le.AppendUint64(b, m.key.a)
		b = le.AppendUint64(b, m.key.b)
		b = le.AppendUint32(b, m.off)
		b = le.AppendUint32(b, uint32(len(m.data)))
		b = append(b, m.data...)
	}
	le.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// decoder reads little-endian fields and remembers whether one was missing.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// count reads how many elements of at least size bytes follow.
func (d *decoder) count(size int) int {
	n := int(d.u32())
	if n > len(d.b)/size {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) blocks() []block {
	n := d.count(16)
	if n == 0 {
		return nil
	}
	out := make([]block, n)
	for i := range out {
		out[i] = block{seg: d.u64(), phys: d.u32(), blk: d.u32()}
	}
	return out
}

// decodeOperations splits a record's plaintext. The operations refer to b.
func decodeOperations(b []byte, firstSeq uint64) ([]operation, error) {
	var ops []operation
	for d := (decoder{b: b}); len(d.b) > 0; {
		body := decoder{b: d.take(int(d.u32()))}
		if d.bad {
			return nil, errOperation
		}
		op, err := decodeOperation(&body)
		if err != nil {
			return nil, err
		}
		op.seq = firstSeq + uint64(len(ops))
		ops = append(ops, op)
	}
	return ops, nil
}

func decodeOperation(d *decoder) (operation, error) {
	op := operation{session: d.u64(), unique: d.u64(), result: d.u64(), usedPages: d.u64(), files: d.u64(), nextIno: d.u64()}
	op.alloc = d.blocks()
	op.freed = d.blocks()
	n := d.count(26)
	op.muts = make([]mutation, n)
	for i := range op.muts {
		m := &op.muts[i]
		m.kind = d.u8()
		m.key = key{table(d.u8()), d.u64(), d.u64()}
		m.off = d.u32()
		m.data = d.take(int(d.u32()))
		if m.kind < mutPut || m.kind > mutPatch || m.key.t < tableInode || m.key.t > tableMax || m.off > pageSize {
			return op, errOperation
		}
		if m.kind == mutPut && m.data == nil {
			m.data = []byte{}
		}
	}
	if d.bad || len(d.b) > 0 {
		return op, errOperation
	}
	return op, nil
}
