package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layout of a node table's file:
//
//	0        magic, 8 bytes; version, 4 bytes
//	64       inflightSlots × 8 bytes: uniques being handled, 0 = free
//	4096     ring of carriedSlots × 8 bytes: uniques a dead worker was handling
//	12288    8 bytes: how many entries the ring ever got
//	12352    8 bytes: the last operation that programs may have been told of
//	1 MiB    4 bytes for each inode number: references the kernel holds
//
// The file is sparse: only pages with a non-zero count are backed by memory.
const (
	nodesMagic    = "cmkfsnod"
	nodesVersion  = 1
	inflightOff   = 64
	inflightSlots = 256
	carriedOff    = 4096
	carriedSlots  = 1024
	carriedCount  = carriedOff + 8*carriedSlots
	answeredOff   = carriedCount + 64 // a cache line of its own
	headerMap     = 16384

	countsOff   = 1 << 20
	chunkBytes  = 1 << 20
	chunkCounts = chunkBytes / 4
	maxNode     = 1 << 34 // above any number a volume gives out
	nodesSize   = countsOff + maxNode*4
)

// ErrNodeTable reports a file that is no node table of this version.
var ErrNodeTable = errors.New("not a node table of this version")

// NodeTable counts, in memory shared between the supervisor and its workers,
// the references the kernel holds to each inode, and notes the requests being
// handled and how far they have got the volume. It lives in a memfd and so survives
// every worker. Counts may be too high after a worker died in the middle of a
// request, never too low.
//
// Pages are mapped a MiB at a time when first touched, so that locking a
// process's memory does not populate the whole range.
type NodeTable struct {
	file   *os.File
	header []byte
	chunks []atomic.Pointer[[chunkCounts]uint32]
	mapMu  sync.Mutex // held while a chunk is mapped
}

// NewNodeTable makes an empty table.
func NewNodeTable() (*NodeTable, error) {
	fd, err := unix.MemfdCreate("cmkfs-nodes", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create node table: %w", err)
	}
	f := os.NewFile(uintptr(fd), "node table")
	head := make([]byte, 12)
	copy(head, nodesMagic)
	binary.NativeEndian.PutUint32(head[8:], nodesVersion)
	if _, err = f.WriteAt(head, 0); err == nil {
		err = f.Truncate(nodesSize)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("create node table: %w", err)
	}
	return OpenNodeTable(f)
}

// OpenNodeTable opens the table in f, as inherited from the supervisor. The
// table owns f from then on, also when it fails.
func OpenNodeTable(f *os.File) (*NodeTable, error) {
	t := &NodeTable{file: f, chunks: make([]atomic.Pointer[[chunkCounts]uint32], maxNode/chunkCounts)}
	head := make([]byte, 12)
	if _, err := f.ReadAt(head, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("open node table: %w", err)
	}
	if string(head[:8]) != nodesMagic || binary.NativeEndian.Uint32(head[8:]) != nodesVersion {
		f.Close()
		return nil, ErrNodeTable
	}
	m, err := unix.Mmap(int(f.Fd()), 0, headerMap, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map node table: %w", err)
	}
	t.header = m
	return t, nil
}

// File is the memfd, to be inherited by a worker.
func (t *NodeTable) File() *os.File { return t.file }

// Close unmaps the table. Nobody may use it any more.
func (t *NodeTable) Close() error {
	for i := range t.chunks {
		if c := t.chunks[i].Load(); c != nil {
			unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(c)), chunkBytes))
		}
	}
	unix.Munmap(t.header)
	return t.file.Close()
}

// count returns the counter of an inode, mapping its chunk if need be.
func (t *NodeTable) count(ino uint64) (*uint32, error) {
	if ino >= maxNode {
		return nil, fmt.Errorf("node table: inode number %d is too large", ino)
	}
	c := t.chunks[ino/chunkCounts].Load()
	if c == nil {
		var err error
		if c, err = t.mapChunk(ino / chunkCounts); err != nil {
			return nil, err
		}
	}
	return &c[ino%chunkCounts], nil
}

func (t *NodeTable) mapChunk(i uint64) (*[chunkCounts]uint32, error) {
	t.mapMu.Lock()
	defer t.mapMu.Unlock()
	if c := t.chunks[i].Load(); c != nil {
		return c, nil
	}
	m, err := unix.Mmap(int(t.file.Fd()), int64(countsOff+i*chunkBytes), chunkBytes,
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map node table: %w", err)
	}
	c := (*[chunkCounts]uint32)(unsafe.Pointer(&m[0]))
	t.chunks[i].Store(c)
	return c, nil
}

// Add counts one more reference to an inode. It must happen before the reply
// that gives it to the kernel.
func (t *NodeTable) Add(ino uint64) error {
	c, err := t.count(ino)
	if err != nil {
		return err
	}
	atomic.AddUint32(c, 1)
	return nil
}

// Remove takes n references away, as a FORGET says, and returns how many are
// left. It never goes below zero.
func (t *NodeTable) Remove(ino, n uint64) uint32 {
	c, err := t.count(ino)
	if err != nil {
		return 0
	}
	for {
		have := atomic.LoadUint32(c)
		left := uint32(0)
		if uint64(have) > n {
			left = have - uint32(n)
		}
		if atomic.CompareAndSwapUint32(c, have, left) {
			return left
		}
	}
}

// Count returns the number of references to an inode.
func (t *NodeTable) Count(ino uint64) uint32 {
	c, err := t.count(ino)
	if err != nil {
		return 0
	}
	return atomic.LoadUint32(c)
}

// Walk calls fn for each inode the kernel holds, until it fails. It looks only
// at memory that was ever used. The root directory, which the kernel always
// holds, is not counted and not visited.
func (t *NodeTable) Walk(fn func(ino uint64) error) error {
	fd := int(t.file.Fd())
	for off := int64(countsOff); ; {
		start, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("walk node table: %w", err)
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("walk node table: %w", err)
		}
		for ino := uint64(start-countsOff) / 4; ino < uint64(end-countsOff)/4; ino++ {
			if t.Count(ino) == 0 {
				continue
			}
			if err := fn(ino); err != nil {
				return err
			}
		}
		off = end
	}
}

// slot is the place of the i-th reader for the unique it handles.
func (t *NodeTable) slot(i int) *uint64 {
	return (*uint64)(unsafe.Pointer(&t.header[inflightOff+8*i]))
}

// begin notes that the reader handles a request; end that it answered it.
func (t *NodeTable) begin(reader int, unique uint64) { atomic.StoreUint64(t.slot(reader), unique) }
func (t *NodeTable) end(reader int)                  { atomic.StoreUint64(t.slot(reader), 0) }

// Answered is the last operation of the volume that programs may have been told of,
// 0 if none is known. A volume without it must not go on under them.
func (t *NodeTable) Answered() uint64 { return atomic.LoadUint64(t.word(answeredOff)) }

// SetAnswered notes an operation before anybody is told of it. It never goes back.
func (t *NodeTable) SetAnswered(operation uint64) {
	for have := t.Answered(); have < operation; have = t.Answered() {
		atomic.CompareAndSwapUint64(t.word(answeredOff), have, operation)
	}
}

// takeInflight returns the uniques a dead worker had not answered, and moves
// them to the ring: until the kernel has sent them again and they are answered,
// the results of those that were applied must not be forgotten. Entries stay in
// the ring until newer ones take their place, which no number of requests does,
// only dead workers.
func (t *NodeTable) takeInflight() []uint64 {
	var us []uint64
	for i := range inflightSlots {
		if u := atomic.LoadUint64(t.slot(i)); u != 0 {
			us = append(us, u)
			// Into the ring before out of the slot: Unanswered misses nothing.
			n := atomic.AddUint64(t.word(carriedCount), 1) - 1
			atomic.StoreUint64(t.word(carriedOff+8*int(n%carriedSlots)), u&^uniqueResend)
			atomic.StoreUint64(t.slot(i), 0)
		}
	}
	return us
}

// Unanswered lists the requests, as numbered by meta.Caller, that may be
// delivered again: those being handled, and those that dead workers had not
// answered. It is never nil.
func (t *NodeTable) Unanswered() []uint64 {
	us := make([]uint64, 0, inflightSlots)
	for i := range inflightSlots {
		if u := atomic.LoadUint64(t.slot(i)); u != 0 {
			us = append(us, u&^uniqueResend)
		}
	}
	for i := range carriedSlots {
		if u := atomic.LoadUint64(t.word(carriedOff + 8*i)); u != 0 {
			us = append(us, u)
		}
	}
	return us
}

func (t *NodeTable) word(off int) *uint64 { return (*uint64)(unsafe.Pointer(&t.header[off])) }
