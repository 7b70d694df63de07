package meta

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"

	"cmkfs/crypto"
	"cmkfs/store"
)

// index is the state as of the last checkpoint, in bbolt: a bucket per table,
// keys as in key.bytes, values sealed with table and key as associated data.
//
// bbolt has no page checksums: a damaged file makes it return other data, lose
// some, crash or hang. Every page is therefore authenticated before bbolt sees
// it (see tagFile). What damages the file later, while the volume is open, meets
// the seals of the values, and a recover around everything bbolt does.
type index struct {
	db      *bbolt.DB
	file    store.File // the database as bbolt has written it
	tags    *tagFile
	readers *readers
	cache   *cache

	resident residency
	box      *crypto.Box
	hasher   *crypto.SetHasher

	// What follows is of the last transaction of bbolt; commits use it, which
	// run one at a time.
	setHash  crypto.SetHash
	untagged bool     // it does not count yet: the host had no room for its tags
	pending  *summary // its summary, then
}

const (
	indexName = "index.db"
	indexTemp = "index.db.new"
)

var bucketNames = func() (b [tableMax + 1][]byte) {
	for t := tableInode; t <= tableMax; t++ {
		b[t] = []byte(tableNames[t])
	}
	return
}()

var bucketSummary = []byte("summary")
var keySummary = []byte("summary")

func indexOptions() *bbolt.Options {
	return &bbolt.Options{
		Timeout:         5 * time.Second,
		PageSize:        pageSize,
		InitialMmapSize: 1 << 30, // address space only: growth remaps under a lock that stalls readers
		FreelistType:    bbolt.FreelistMapType,
	}
}

// guard turns bbolt's panics and faults on a damaged file into an error.
func guard(where string, err *error) {
	if r := recover(); r != nil {
		*err = &CorruptError{Where: indexName, Err: fmt.Errorf("%s: %v", where, r)}
	}
}

// createIndex makes the database, under a temporary name first, and its tags.
func createIndex(st store.Store, keys *volumeKeys, volumeID [16]byte, first func(*bbolt.Tx, *index) error) error {
	if err := removeAny(st, indexTemp); err != nil {
		return err
	}
	db, err := openBolt(st, indexTemp)
	if err != nil {
		return err
	}
	x := newIndex(db, keys)
	err = db.Update(func(tx *bbolt.Tx) error {
		for t := tableInode; t <= tableMax; t++ {
			if _, err := tx.CreateBucket(bucketNames[t]); err != nil {
				return err
			}
		}
		if _, err := tx.CreateBucket(bucketSummary); err != nil {
			return err
		}
		return first(tx, x)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return tagIndex(st, keys, volumeID)
}

// tagIndex makes the tags of a new database and gives both their names. A crash
// in between leaves a new index without its tags: whoever makes one has not
// said yet that there is a volume, or begins again.
func tagIndex(st store.Store, keys *volumeKeys, volumeID [16]byte) error {
	file, err := st.Open(indexTemp)
	if err != nil {
		return err
	}
	f := newTagFile(st, keys, volumeID)
	if err = f.begin(tagsTemp); err == nil {
		err = f.commit(file)
	}
	if err := errors.Join(err, f.close(), file.Close()); err != nil {
		return err
	}
	if err := st.Rename(indexTemp, indexName); err != nil {
		return err
	}
	if err := st.Rename(tagsTemp, tagsName); err != nil {
		return err
	}
	return st.SyncDir("")
}

// openBolt opens a database of the store, makes it if there is none, and tells
// a store that wants to follow its writes.
func openBolt(st store.Store, name string) (*bbolt.DB, error) {
	db, err := bbolt.Open(st.Path(name), 0o600, indexOptions())
	if err != nil {
		return nil, err
	}
	if w, ok := st.(store.Watcher); ok {
		w.Watch(name, db)
	}
	return db, nil
}

func newIndex(db *bbolt.DB, keys *volumeKeys) *index {
	return &index{db: db, readers: &readers{db: db}, cache: newCache(), box: keys.index, hasher: keys.hasher}
}

func openIndex(st store.Store, keys *volumeKeys, volumeID [16]byte) (x *index, err error) {
	defer guard("open", &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	file, err := st.Open(indexName)
	if err != nil {
		return nil, &CorruptError{Where: indexName, Err: err}
	}
	tags := newTagFile(st, keys, volumeID)
	var damaged []uint64
	err = tags.verify(file, func(page uint64) { damaged = append(damaged, page) })
	if err == nil && len(damaged) > 0 {
		err = &damagedPages{damaged}
	}
	var db *bbolt.DB
	if err == nil {
		db, err = openTables(st)
	}
	if err != nil {
		return nil, errors.Join(err, tags.close(), file.Close())
	}
	x = newIndex(db, keys)
	x.file, x.tags = file, tags
	return x, nil
}

// openTables opens the database, whose pages are authentic.
func openTables(st store.Store) (*bbolt.DB, error) {
	db, err := openBolt(st, indexName)
	if err != nil {
		return nil, &CorruptError{Where: indexName, Err: err}
	}
	err = db.View(func(tx *bbolt.Tx) error {
		for t := tableInode; t <= tableMax; t++ {
			if tx.Bucket(bucketNames[t]) == nil {
				return &CorruptError{Where: indexName, Err: fmt.Errorf("bucket %s is missing", tableNames[t])}
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func (x *index) close() (err error) {
	defer guard("close", &err)
	x.readers.stop() // Close waits for transactions
	return errors.Join(x.db.Close(), x.tags.close(), x.file.Close())
}

// indexAD binds a value to its place.
func indexAD(k key) []byte {
	b := k.bytes()
	return append([]byte{'i', byte(k.t)}, b[:]...)
}

func (x *index) unseal(k key, sealed []byte) ([]byte, error) {
	val, err := x.box.Open(nil, sealed, indexAD(k))
	if err != nil {
		return nil, &CorruptError{Where: indexName + ": " + k.String(), Err: err}
	}
	if val == nil {
		val = []byte{}
	}
	return val, nil
}

// get returns the value of a key, nil if there is none. It must not be modified.
func (x *index) get(k key) (val []byte, err error) {
	if val, ok := x.cache.get(k); ok {
		return val, nil
	}
	if val, err = x.read(k); err == nil {
		x.cache.put(k, val)
	}
	return val, err
}

// read returns the value of a key as bbolt has it.
func (x *index) read(k key) (val []byte, err error) {
	defer guard("get", &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = x.readers.view(func(r *reader) error {
		kb := k.bytes()
		x.touched(r.tx)
		sealed := r.bucket(k.t).Get(kb[:])
		if sealed == nil {
			return nil
		}
		val, err = x.unseal(k, sealed)
		return err
	})
	return val, err
}

// scan runs fn with an iterator over the values of one table.
func (x *index) scan(t table, fn func(*indexIter) error) (err error) {
	defer guard("scan", &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return x.readers.view(func(r *reader) error {
		return fn(&indexIter{x: x, tx: r.tx, c: r.bucket(t).Cursor()})
	})
}

// indexIter walks the index within a span. It lives as long as the transaction
// of scan.
type indexIter struct {
	x      *index
	tx     *bbolt.Tx
	c      *bbolt.Cursor
	key    key
	sealed []byte
	ok     bool
}

func (i *indexIter) set(t table, k, v []byte) error {
	i.ok = false
	if k == nil {
		return nil
	}
	if len(k) != 16 {
		return &CorruptError{Where: indexName + ": " + tableNames[t], Err: errShort}
	}
	i.key, i.sealed, i.ok = keyFromBytes(t, k), v, true
	return nil
}

func (i *indexIter) seek(in span) error {
	kb := in.from.bytes()
	k, v := i.c.Seek(kb[:])
	if err := i.set(in.from.t, k, v); err != nil {
		return err
	}
	i.ok = i.ok && in.contains(i.key)
	return nil
}

func (i *indexIter) next(in span) {
	last := i.key
	i.x.touched(i.tx)
	k, v := i.c.Next()
	if err := i.set(in.from.t, k, v); err != nil {
		panic(err) // ends in guard as a CorruptError
	}
	if i.ok && !last.less(i.key) {
		panic("keys are out of order") // a damaged page can make a cursor run in circles
	}
	i.ok = i.ok && in.contains(i.key)
}

func (i *indexIter) value() ([]byte, error) { return i.x.unseal(i.key, i.sealed) }

// element is what a stored value contributes to the volume's set hash.
func (x *index) element(k key, sealed []byte) crypto.SetHash {
	kb := k.bytes()
	return x.hasher.Element(byte(k.t), kb[:], sealed)
}

// put writes one value inside a checkpoint and keeps the set hash.
func (x *index) put(b *bbolt.Bucket, k key, val []byte, sum *crypto.SetHash) error {
	kb := k.bytes()
	old := b.Get(kb[:])
	if old != nil {
		*sum = sum.Sub(x.element(k, old))
	}
	if val == nil {
		if old == nil {
			return nil
		}
		return b.Delete(kb[:])
	}
	sealed := x.box.Seal(nil, val, indexAD(k))
	*sum = sum.Add(x.element(k, sealed))
	return b.Put(kb[:], sealed)
}

// commit writes an overlay and the summary in one transaction, however large. After an error
// that is ENOSPC, memory and disk are good for another try.
func (x *index) commit(o *overlay, s *summary) (err error) {
	defer guard("checkpoint", &err)
	x.readers.stop()
	defer x.readers.start()
	s.setHash = x.setHash
	return x.update(func(tx *bbolt.Tx) error {
		if err := x.write(tx, o, s); err != nil {
			return err
		}
		return x.putSummary(tx, s)
	}, &s.setHash)
}

// update runs one transaction. It counts when its tags are durable: a crash
// before that leaves bbolt's newer state, which the next open takes back.
//
// The host may have no room for the tags when bbolt's part is done. Then no
// other transaction may begin, which would overwrite pages of the state that
// counts, until the tags are there.
func (x *index) update(fn func(*bbolt.Tx) error, after *crypto.SetHash) error {
	if err := x.tagLast(); err != nil {
		return err
	}
	before := x.txid()
	if err := x.db.Update(fn); err != nil {
		if x.txid() != before {
			return fmt.Errorf("bbolt wrote a transaction and could not flush it: %v", err) // not to be tried again
		}
		return err
	}
	x.untagged, x.setHash = true, *after
	if err := x.tags.commit(x.file); err != nil {
		return err
	}
	x.untagged = false
	return nil
}

// tagLast makes the last transaction count if it does not yet.
func (x *index) tagLast() error {
	if !x.untagged {
		return nil
	}
	if err := x.tags.commit(x.file); err != nil {
		return err
	}
	x.untagged = false
	return nil
}

// txid returns the number of bbolt's last transaction that can be seen.
func (x *index) txid() (id int) {
	_ = x.db.View(func(tx *bbolt.Tx) error {
		id = tx.ID()
		return nil
	})
	return id
}

// settle flushes what an earlier process wrote, before anything relies on it.
// With again, a flush has failed: what may have been lost by it is written anew.
func (x *index) settle(again bool) error {
	if again {
		if err := writeAgain(x.file, 0, boltMetas*pageSize); err != nil {
			return err
		}
	}
	if err := x.file.Sync(); err != nil {
		return err
	}
	if again {
		return x.tags.rewrite(x.file, x.tags.state, x.tags.used)
	}
	return errors.Join(x.tags.file.Sync(), x.tags.st.SyncDir(""))
}

func (x *index) write(tx *bbolt.Tx, o *overlay, s *summary) error {
	w := tableWriter{x: x, tx: tx, sum: &s.setHash}
	var failed error
	o.tree.Scan(func(it item) bool {
		failed = w.put(it)
		return failed == nil
	})
	return failed
}

func (x *index) putSummary(tx *bbolt.Tx, s *summary) error {
	b := tx.Bucket(bucketSummary)
	if err := b.Delete(keyThrough); err != nil {
		return err
	}
	return b.Put(keySummary, x.box.Seal(nil, s.marshal(), keySummary))
}

func (x *index) summary() (s *summary, err error) {
	defer guard("summary", &err)
	err = x.db.View(func(tx *bbolt.Tx) error {
		sealed := tx.Bucket(bucketSummary).Get(keySummary)
		plain, err := x.box.Open(nil, bytes.Clone(sealed), keySummary)
		if err != nil {
			return &CorruptError{Where: indexName + ": summary", Err: err}
		}
		s, err = unmarshalSummary(plain)
		if err != nil {
			return &CorruptError{Where: indexName + ": summary", Err: err}
		}
		x.setHash = s.setHash
		return nil
	})
	return s, err
}

// forEach calls fn for every stored value of a table, sealed, in key order.
func (x *index) forEach(t table, fn func(k key, sealed []byte) error) (err error) {
	defer guard("walk", &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return x.db.View(func(tx *bbolt.Tx) error {
		it := &indexIter{x: x, tx: tx, c: tx.Bucket(bucketNames[t]).Cursor()}
		k, v := it.c.First()
		for last := (key{}); k != nil; k, v = it.c.Next() {
			if err := it.set(t, k, v); err != nil {
				return err
			}
			if last.t != 0 && !last.less(it.key) {
				return &CorruptError{Where: indexName + ": " + tableNames[t], Err: errors.New("keys are out of order")}
			}
			last = it.key
			x.touched(tx)
			if err := fn(it.key, v); err != nil {
				return err
			}
		}
		return nil
	})
}
