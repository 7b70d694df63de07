package meta

import (
	"encoding/binary"
	"fmt"

	"github.com/tidwall/btree"
)

// table numbers one kind of value in the volume's state. The numbers are part
// of the on-disk format (bucket names, associated data, journal records).
type table uint8

const (
	tableInode   table = 1 // (ino, 0)          → inode
	tableDirent  table = 2 // (parent, hash)    → entries with that name hash
	tableXattr   table = 3 // (ino, hash)       → extended attributes with that hash
	tableRegion  table = 4 // (ino, region)     → block pointers of 128 KiB of a file
	tablePage    table = 5 // (ino, page)       → small data: up to 4096 bytes of one page
	tableSegment table = 6 // (segment, 0)      → live pages
	tableShared  table = 7 // (segment, page)   → references to a block beyond the first
	tableOrphan  table = 8 // (ino, 0)          → unlinked inode the kernel still holds
	tableMax           = tableOrphan
)

var tableNames = [...]string{
	tableInode: "inode", tableDirent: "dirent", tableXattr: "xattr", tableRegion: "region",
	tablePage: "page", tableSegment: "segment", tableShared: "shared", tableOrphan: "orphan",
}

// key names one value of the state.
type key struct {
	t    table
	a, b uint64
}

// String names a key in errors and dumps; it never contains a user's name.
func (k key) String() string {
	if k.t < tableInode || k.t > tableMax {
		return fmt.Sprintf("table %d (%d, %d)", k.t, k.a, k.b)
	}
	return fmt.Sprintf("%s (%d, %d)", tableNames[k.t], k.a, k.b)
}

func (k key) less(o key) bool {
	if k.t != o.t {
		return k.t < o.t
	}
	if k.a != o.a {
		return k.a < o.a
	}
	return k.b < o.b
}

// bytes is the key inside its bucket: both numbers big-endian, so that bbolt's
// order is ours.
func (k key) bytes() [16]byte {
	var out [16]byte
	binary.BigEndian.PutUint64(out[:8], k.a)
	binary.BigEndian.PutUint64(out[8:], k.b)
	return out
}

func keyFromBytes(t table, b []byte) key {
	return key{t, binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// item is one entry of an overlay: a value, or nil for a deleted one.
type item struct {
	key key
	val []byte
}

// overlay holds the values changed since a checkpoint, in key order. The
// volume's state lock guards it; values are never modified once inside.
type overlay struct {
	tree  *btree.BTreeG[item]
	bytes int64 // memory the values take, roughly
}

func newOverlay() *overlay {
	return &overlay{tree: btree.NewBTreeGOptions(func(a, b item) bool { return a.key.less(b.key) }, btree.Options{NoLocks: true})}
}

// itemOverhead is what an item costs besides its value, in bytes.
const itemOverhead = 64

func (o *overlay) put(k key, val []byte) {
	old, had := o.tree.Set(item{k, val})
	o.bytes += int64(len(val)) + itemOverhead
	if had {
		o.bytes -= int64(len(old.val)) + itemOverhead
	}
}

// remove forgets a key; it does not say that it is deleted.
func (o *overlay) remove(k key) {
	if old, had := o.tree.Delete(item{key: k}); had {
		o.bytes -= int64(len(old.val)) + itemOverhead
	}
}

// get returns a value and whether the overlay knows the key; a nil value with
// true says deleted.
func (o *overlay) get(k key) ([]byte, bool) {
	it, ok := o.tree.Get(item{key: k})
	return it.val, ok
}

// encodeCount and decodeCount are the values of the tables that count.
func encodeCount(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

func decodeCount(k key, val []byte) (uint64, error) {
	if val == nil {
		return 0, nil
	}
	if len(val) != 8 {
		return 0, &CorruptError{Where: k.String(), Err: errShort}
	}
	return binary.LittleEndian.Uint64(val), nil
}
