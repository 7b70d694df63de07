// Package store keeps the bytes of one volume under slash-separated names: a
// local directory today, objects later. It knows nothing about their meaning.
//
// Durability contract, which the crash tests simulate and every
// implementation keeps:
//   - WriteAt and PunchHole are visible to every later reader on this host at
//     once and survive the death of the process, but not of the host.
//   - File.Sync makes the file's data and size durable.
//   - Create and Remove of a name are durable after SyncDir of its folder.
//   - Without a sync any subset of 512-byte sectors written since the last one
//     may be on disk after a crash of the host.
package store

import (
	"errors"
	"io"
)

var (
	// ErrNotExist reports a name that is not in the store.
	ErrNotExist = errors.New("store: no such file")
	// ErrExist reports a name that Create found taken.
	ErrExist = errors.New("store: file exists")
	// ErrFull reports that the host file system has no space left.
	ErrFull = errors.New("store: no space left on the host file system")
	// ErrLocked reports that another process holds the store's lock.
	ErrLocked = errors.New("store: in use by another process")
)

// Store is the place of one volume's files. Names are relative, at most one
// folder deep ("superblock", "journal/00"). Methods may be called concurrently.
type Store interface {
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Create makes a file of size bytes, all zero and all allocated, so that
	// later writes inside it need no allocation. It fails with ErrExist.
	Create(name string, size int64) (File, error)
	// Remove deletes a file; open handles stay usable.
	Remove(name string) error
	// Rename replaces newName by oldName atomically.
	Rename(oldName, newName string) error
	// Mkdir makes a folder; one that exists is fine.
	Mkdir(dir string) error
	// List returns the names inside a folder ("" is the root), sorted, without
	// the folder's own name.
	List(dir string) ([]string, error)
	// SyncDir makes the creations and removals in a folder durable.
	SyncDir(dir string) error
	// Free returns the bytes the host file system can still take.
	Free() (int64, error)
	// Path returns the path of a name on a local file system, for bbolt, which
	// must map its file. Only meta's index uses it.
	Path(name string) string
	// Lock takes the store for this process until the closer is closed or the
	// process dies. It fails with ErrLocked.
	Lock() (io.Closer, error)
}

// File is one open file. Methods may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Cached reports whether the host has all of [off, off+n) in its memory or on the
	// way there; false if it cannot say.
	Cached(off, n int64) bool
	// Prefetch advises the host to begin to read [off, off+n) and does not wait.
	Prefetch(off, n int64)
	// Sync makes data and size durable (fdatasync).
	Sync() error
	// PunchHole frees the whole host blocks inside [off, off+length); the range
	// reads as zeros afterwards and the size stays.
	PunchHole(off, length int64) error
	// Truncate sets the size.
	Truncate(size int64) error
	// Size returns the file's size in bytes.
	Size() (int64, error)
}

// Watcher is a Store that wants to know what bbolt writes to the file behind a
// Path, which passes the Store by: the crash tests' ones do.
type Watcher interface {
	// Watch is told of a *bbolt.DB that has just opened the file of that name.
	Watch(name string, db any)
}
