package meta

import (
	"encoding/binary"

	"go.etcd.io/bbolt"

	"cmkfs/crypto"
)

// mostNodes bounds the pages of bbolt that one transaction of a checkpoint
// changes: it holds each in memory, decoded and encoded, some 10 KiB in all.
// What a checkpoint changes in a large volume is spread over as many pages as
// it has values.
const mostNodes = 2048

// keyThrough is where the index says that values of later operations than the
// summary's are in it, and of which last one.
var keyThrough = []byte("through")

// commitParts writes an overlay and the summary s, whose operations are all
// durable in the journal, in transactions of bounded size. All but the last
// leave base's summary, with a number and a set hash of their own, and say
// through which operation the journal is needed. A crash between two of them
// leaves values that are newer than the summary's operations. Recovery applies
// these operations once more, the last of which gives each value what it has
// already. The counts of segments, which are not replaced but added to, change in
// the last transaction only.
//
// After each transaction but the last it calls counted with the first key that is
// not in the index yet. It returns the summary of the last transaction that
// counts, also when it fails. After an error that is ENOSPC, memory and disk are
// good for another try.
func (x *index) commitParts(o *overlay, base, s *summary, nodes int64, counted func(next key)) (last *summary, err error) {
	last = base
	defer guard("checkpoint", &err)
	x.readers.stop()
	defer x.readers.start()
	if x.untagged {
		if err := x.tagLast(); err != nil {
			return last, err
		}
		// It may have been a last part: then its summary is what later ones leave.
		last = x.pending
		base = last
	}
	for next := (key{}); ; {
		part := *base
		part.commits, part.setHash = last.commits+1, x.setHash
		more := false
		err := x.update(func(tx *bbolt.Tx) (err error) {
			if next, more, err = x.writePart(tx, o, next, nodes, &part.setHash); err != nil {
				return err
			}
			if more {
				if err := x.putSummary(tx, &part); err != nil {
					return err
				}
				return x.putThrough(tx, s.seq)
			}
			s.commits, s.setHash = part.commits, part.setHash
			return x.putSummary(tx, s)
		}, &part.setHash)
		if err != nil {
			if x.pending = &part; !more {
				x.pending = s
			}
			return last, err
		}
		if !more {
			return s, nil
		}
		last = &part
		counted(next)
	}
}

// writePart writes an overlay from a key on, until it has changed as many pages
// as it may: then more is true, and next is where to go on. With the rest come the
// counts of segments.
func (x *index) writePart(tx *bbolt.Tx, o *overlay, from key, nodes int64, sum *crypto.SetHash) (next key, more bool, err error) {
	w := tableWriter{x: x, tx: tx, sum: sum}
	o.tree.Ascend(item{key: from}, func(it item) bool {
		if it.key.t == tableSegment {
			return true
		}
		x.touched(tx)
		if s := tx.Stats(); s.GetNodeCount() >= nodes {
			next, more = it.key, true
			return false
		}
		err = w.put(it)
		return err == nil
	})
	if more || err != nil {
		return next, more, err
	}
	o.tree.Ascend(item{key: key{t: tableSegment}}, func(it item) bool {
		if it.key.t != tableSegment {
			return false
		}
		err = w.put(it)
		return err == nil
	})
	return next, false, err
}

// tableWriter puts values of an overlay, table after table, into a transaction.
type tableWriter struct {
	x   *index
	tx  *bbolt.Tx
	sum *crypto.SetHash
	t   table
	b   *bbolt.Bucket
}

func (w *tableWriter) put(it item) error {
	if it.key.t != w.t {
		w.t, w.b = it.key.t, w.tx.Bucket(bucketNames[it.key.t])
		w.b.FillPercent = 0.8 // mostly ascending keys
	}
	return w.x.put(w.b, it.key, it.val, w.sum)
}

func (x *index) putThrough(tx *bbolt.Tx, seq uint64) error {
	return tx.Bucket(bucketSummary).Put(keyThrough, x.box.Seal(nil, binary.LittleEndian.AppendUint64(nil, seq), keyThrough))
}

// through returns the operation up to which the index has values, 0 if none is
// beyond the summary's.
func (x *index) through() (seq uint64, err error) {
	defer guard("summary", &err)
	err = x.db.View(func(tx *bbolt.Tx) error {
		sealed := tx.Bucket(bucketSummary).Get(keyThrough)
		if sealed == nil {
			return nil
		}
		plain, err := x.box.Open(nil, sealed, keyThrough)
		if err == nil && len(plain) != 8 {
			err = errShort
		}
		if err != nil {
			return &CorruptError{Where: indexName + ": summary", Err: err}
		}
		seq = binary.LittleEndian.Uint64(plain)
		return nil
	})
	return seq, err
}
