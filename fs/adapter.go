package fs

import (
	"sync"
	"sync/atomic"
	"time"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// cacheFor is how long the kernel may keep an entry (a missing one too) or
// attributes without asking. A volume has one writer, the kernel itself.
const cacheFor = 24 * time.Hour

// generation tells incarnations of a node id apart. Inode numbers are never
// used twice while a mount lives, so there is one. A crash of the host may take the
// numbers of lost files back.
const generation = 1

// adapter implements fuse.RawFileSystem on a Volume. What it does not define
// answers ENOSYS, by which the kernel learns not to ask again.
type adapter struct {
	fuse.RawFileSystem

	vol     Volume
	nodes   *NodeTable
	session uint64
	errs    *errorLog
	// caching reports whether the kernel may still cache attributes: not
	// while the volume is being suspended.
	caching func() bool
	// forgetAttr makes the kernel ask for a node's attributes again.
	forgetAttr func(ino uint64)

	// stripes keep, for the nodes that share one, a FORGET that takes the
	// last reference and tells the volume so apart from a reply that gives
	// out a new one.
	stripes [64]sync.Mutex
	gone    atomic.Uint64 // nodes that lost their last reference

	// later has the nodes to forget that need waiting for something.
	later struct {
		sync.Mutex
		nodes   []uint64
		running bool // a goroutine works them off
	}
}

// String names the adapter for go-fuse.
func (a *adapter) String() string { return "cmkfs" }

// caller describes the request to the volume.
func (a *adapter) caller(h *fuse.InHeader) meta.Caller {
	return meta.Caller{
		Session: a.session,
		Unique:  h.Unique &^ uniqueResend,
		UID:     h.Uid,
		GID:     h.Gid,
	}
}

func (a *adapter) timeout() time.Duration {
	if a.caching() {
		return cacheFor
	}
	return 0
}

// hold counts the reference to a node that the reply being made gives out.
func (a *adapter) hold(ino uint64) error {
	mu := &a.stripes[ino%uint64(len(a.stripes))]
	mu.Lock()
	defer mu.Unlock()
	return a.nodes.Add(ino)
}

// forget takes n references away and tells the volume when it was the last. It
// does not wait: nobody waits for it, and requests do for the reader.
func (a *adapter) forget(ino, n uint64) {
	mu := &a.stripes[ino%uint64(len(a.stripes))]
	mu.Lock()
	defer mu.Unlock()
	if a.nodes.Remove(ino, n) > 0 {
		return
	}
	a.letGo()
	done, err := a.vol.TryForget(ino)
	if err != nil {
		// A failure leaves an orphan for the next worker to reclaim.
		_ = a.errs.status("forget", ino, err)
		return
	}
	if !done {
		a.forgetLater(ino)
	}
}

// forgetLater leaves a node to a goroutine of its own.
func (a *adapter) forgetLater(ino uint64) {
	a.later.Lock()
	defer a.later.Unlock()
	a.later.nodes = append(a.later.nodes, ino)
	if !a.later.running {
		a.later.running = true
		go a.forgetAll()
	}
}

// forgetAll works off what forgetLater was given.
func (a *adapter) forgetAll() {
	for {
		a.later.Lock()
		if len(a.later.nodes) == 0 {
			a.later.running = false
			a.later.Unlock()
			return
		}
		ino := a.later.nodes[0]
		a.later.nodes = a.later.nodes[1:]
		a.later.Unlock()
		a.forgetNow(ino)
	}
}

// forgetNow tells the volume of a node without references.
func (a *adapter) forgetNow(ino uint64) {
	mu := &a.stripes[ino%uint64(len(a.stripes))]
	mu.Lock()
	defer mu.Unlock()
	if a.nodes.Count(ino) == 0 {
		_ = a.errs.status("forget", ino, a.vol.Forget(ino))
	}
}

// reclaim forgets the orphans that the kernel does not hold: those whose last
// reference went while no worker served.
func (a *adapter) reclaim() {
	for _, ino := range a.vol.Orphans() {
		a.forgetNow(ino)
	}
}

// entry answers with a node: it counts the reference and fills in the reply.
func (a *adapter) entry(op string, at meta.Attr, out *fuse.EntryOut) fuse.Status {
	if err := a.hold(at.Ino); err != nil {
		return a.errs.status(op, at.Ino, err)
	}
	a.fillEntry(at, out)
	return fuse.OK
}

func (a *adapter) fillEntry(at meta.Attr, out *fuse.EntryOut) {
	out.NodeId = at.Ino
	out.Generation = generation
	out.SetEntryTimeout(a.timeout())
	out.SetAttrTimeout(a.timeout())
	fillAttr(at, &out.Attr)
}

// fillAttr translates attributes.
func fillAttr(at meta.Attr, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino:       at.Ino,
		Size:      at.Size,
		Blocks:    at.Blocks,
		Atime:     uint64(at.Atime.Unix()),
		Atimensec: uint32(at.Atime.Nanosecond()),
		Mtime:     uint64(at.Mtime.Unix()),
		Mtimensec: uint32(at.Mtime.Nanosecond()),
		Ctime:     uint64(at.Ctime.Unix()),
		Ctimensec: uint32(at.Ctime.Nanosecond()),
		Mode:      at.Mode,
		Nlink:     at.Nlink,
		Owner:     fuse.Owner{Uid: at.UID, Gid: at.GID},
		Rdev:      at.Rdev,
		Blksize:   ioSize,
	}
}
