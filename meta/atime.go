package meta

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// AccessRule says when a read changes an access time.
type AccessRule uint8

const (
	// AccessNever leaves access times to who sets them (noatime).
	AccessNever AccessRule = iota
	// AccessRelative changes one that is not later than the last change of
	// contents or attributes, or a day old (relatime).
	AccessRelative
	// AccessAlways changes it with every read (strictatime).
	AccessAlways
)

// AccessTimes has the rule for files and links, and the one for directories.
type AccessTimes struct {
	Files, Dirs AccessRule
}

const (
	// accessDay is how old an access time gets with AccessRelative, in seconds.
	accessDay = 24 * 60 * 60
	// accessPending is how many unsaved access times have the background save
	// them before its time.
	accessPending = 8192
	// accessBatch is how many of them one operation saves.
	accessBatch = 256
)

// accessTimes has the access times that reads have changed since they were last
// saved. Attributes show them at once; the journal gets them with the next
// change of their inode, or many in one operation: with every checkpoint of the
// background and when the volume is closed. The death of a process loses what
// is not saved, and that is the one thing answered that it may lose.
type accessTimes struct {
	policy  atomic.Pointer[AccessTimes]
	count   atomic.Int64 // of pending, so that nobody needs the lock for an empty one
	full    chan struct{}
	mu      sync.Mutex
	pending map[uint64]uint64 // inode → access time; guarded by mu
}

// SetAccessTimes says from now on what reads change. It starts as never.
func (v *Volume) SetAccessTimes(p AccessTimes) { v.atimes.policy.Store(&p) }

// Accessed notes that a directory or symbolic link was read. Read does so by
// itself.
func (v *Volume) Accessed(ino uint64) error {
	return v.view(func() error {
		n, err := v.inodeOf(ino)
		if err == nil {
			v.accessed(&n)
		}
		return err
	})
}

// accessed is Accessed for an inode that was decoded. The caller holds v.mu.
func (v *Volume) accessed(n *inode) {
	p := v.atimes.policy.Load()
	if p == nil {
		return
	}
	rule := p.Files
	if n.isDir() {
		rule = p.Dirs
	}
	if rule == AccessNever {
		return
	}
	now := timeToDisk(v.now())
	if rule == AccessRelative && n.atime > n.mtime && n.atime > n.ctime && now>>nsecBits < n.atime>>nsecBits+accessDay {
		return
	}
	if v.atimes.set(n.ino, now) >= accessPending {
		select {
		case v.atimes.full <- struct{}{}:
		default:
		}
	}
}

// set notes an access time and returns how many are pending.
func (a *accessTimes) set(ino, t uint64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending == nil {
		a.pending = make(map[uint64]uint64)
	}
	a.pending[ino] = t
	a.count.Store(int64(len(a.pending)))
	return len(a.pending)
}

// show puts the access time that is pending into an inode that was read.
func (a *accessTimes) show(n *inode) {
	if a.count.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.pending[n.ino]; ok {
		n.atime = t
	}
}

// drop forgets what is pending of an inode, which was saved or is overruled.
func (a *accessTimes) drop(ino uint64) {
	if a.count.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, ino)
	a.count.Store(int64(len(a.pending)))
}

// inodes lists the inodes of which an access time is pending.
func (a *accessTimes) inodes() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.pending))
}

// SaveAccessTimes has the journal take the access times that are pending, as
// ordinary operations. It does not wait for room in a full journal: what is left
// then is saved later.
func (v *Volume) SaveAccessTimes() error {
	if v.atimes.count.Load() == 0 {
		return nil
	}
	var last uint64
	for batch := range slices.Chunk(v.atimes.inodes(), accessBatch) {
		if v.journal.used() >= busySlots {
			break
		}
		_, seq, _, err := v.updateQueued(Caller{}, func(t *tx) error {
			for _, ino := range batch {
				if err := t.saveAccessTime(ino); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		last = max(last, seq)
	}
	return v.written(last)
}

// saveAllAccessTimes is SaveAccessTimes with a checkpoint whenever the journal
// has no room.
func (v *Volume) saveAllAccessTimes(checkpoint func() error) error {
	for v.atimes.count.Load() > 0 {
		if err := v.SaveAccessTimes(); err != nil || v.journal.used() < busySlots {
			return err
		}
		if err := checkpoint(); err != nil {
			return err
		}
	}
	return nil
}

// saveAccessTime writes an inode with the access time that is pending. No read
// changes it meanwhile, since the state lock is held exclusively.
func (t *tx) saveAccessTime(ino uint64) error {
	n, err := t.inode(ino)
	t.v.atimes.drop(ino)
	var damaged *CorruptError
	if errors.Is(err, ErrStale) || errors.As(err, &damaged) {
		return nil // removed since, or whoever uses it is told
	}
	if err != nil {
		return err
	}
	t.putInode(n)
	return nil
}
