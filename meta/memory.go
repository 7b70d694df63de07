package meta

import (
	"sync/atomic"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// The memory of an open volume does not grow with the volume. What it holds are
//
//	the changes since the last checkpoint   admission: changesMost
//	opened values of the index              cache: cacheBytes
//	inodes and maps as they were decoded    decoded: some 10 MiB
//	chunks that may lie in pieces           torn: mostTorn
//	the pages a checkpoint is changing      commitParts: mostNodes
//	pages of the index's file, mapped       touched: residentFaults
//	buffers of requests                     a MiB or two for each at a time
//
// and a bit for each page of the index, a few bytes for each segment.
const (
	// HeapLimit is the soft limit of Go's memory, in bytes, for a process that
	// serves a volume: what the volume holds, and some room for the collector.
	HeapLimit = 168 << 20
	// GCPercent is how much garbage there may be for what is alive, in percent, before
	// it is collected, within HeapLimit: what changes lives for a moment only, or until
	// the next checkpoint, and each collection takes a processor from the clients.
	GCPercent = 300
	// changesDue, heavyMost and changesMost are how many bytes of changes ask for a
	// checkpoint, and make heavy writers and all operations wait for one.
	changesDue  = 16 << 20
	heavyMost   = 30 << 20
	changesMost = 40 << 20
	// residentFaults is how many page faults there may be before the mapped pages
	// of the index are let go of. Each brings in 16 pages at most: 32 MiB.
	residentFaults = 512
	// touchesPerLook is how many accesses pass between two looks at the faults.
	touchesPerLook = 64
)

// residency bounds the pages of the index's file that are mapped into this
// process. They are the kernel's cache, which drops them when it needs memory, but
// they count as this process's, and there may be as many as the file has.
type residency struct {
	touches atomic.Uint64
	faults  atomic.Int64 // of the process, when the pages were let go of
}

// touched is told of each access to the index, inside its transaction, which
// keeps the file from being mapped anew.
func (x *index) touched(tx *bbolt.Tx) {
	r := &x.resident
	if r.touches.Add(1)%touchesPerLook != 0 {
		return
	}
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return
	}
	now, before := usage.Minflt+usage.Majflt, r.faults.Load()
	if now-before < residentFaults || !r.faults.CompareAndSwap(before, now) {
		return
	}
	// The mapping is read-only, of a file: an access brings a page back from the
	// kernel's cache. No page behind the transaction's last is asked for: there the
	// mapping may have ended.
	data, size := x.db.Info().Data, uintptr(tx.Size())
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, data, size, unix.MADV_DONTNEED); errno == unix.EINVAL {
		// Locked with all of the process's memory. The pages are ciphertext.
		_, _, _ = unix.Syscall(unix.SYS_MUNLOCK, data, size, 0)
	}
}

// noteChangesLocked keeps what admission goes by, and asks for a checkpoint when
// one is due.
func (v *Volume) noteChangesLocked() {
	n := v.active.bytes
	if !v.due && n >= changesDue {
		v.due = true
		v.wake()
	}
	if v.frozen != nil {
		n += v.frozen.bytes
	}
	v.changes.Store(n)
}
