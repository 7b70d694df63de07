// Package meta is the volume: journal, index, segments, checkpoint, recovery
// and the file operations on them. It promises:
//
//	P1  whatever was answered survives the death of any of our processes;
//	P2  after a crash of the host the volume is a prefix of its history that
//	    contains everything covered by a completed Sync.
//
// The state of a volume is a table of small sealed values (table.go): inodes,
// directory entries, extent maps, small data. An operation reads the table,
// computes new values, appends them to the journal as one record, applies them
// to an in-memory overlay and returns once the record is in the host's page
// cache. A checkpoint moves the overlay into bbolt. Recovery replays the same
// records through the same apply function. Bulk data goes to append-only
// segments before the record that points at it is written.
//
// Lock order, strictly downwards: an inode's data lock (Volume.dataLock), the
// state lock (Volume.mu), the journal's pending buffer. The journal's write
// lock and, in this order, the checkpoint's, the reclaim's and the sync lock are
// taken with none of these held. No lock of the first three is held
// across segment I/O or encryption except the data lock of the file concerned.
//
// Nothing here knows FUSE, keys' origins or process kinds.
package meta
