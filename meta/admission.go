package meta

import "time"

const (
	// initialSlots is how many journal files a volume is created with.
	initialSlots = 8
	// A checkpoint is due when more than dueSlots are in use, and operations wait for
	// it when busySlots are; the rest is for the checkpoint's own operations.
	dueSlots  = 2
	busySlots = 6
	// heavyWrites is how many small writes a file may get between two checkpoints
	// before who writes to it waits earlier than others: what it leaves, a file in use
	// and changesMost-heavyMost bytes, keeps operations of other programs from waiting
	// with it.
	heavyWrites = 256
	heavySlots  = busySlots - 1
	// hostReserve is the space the host file system must have left, in bytes,
	// before an operation that needs more space is admitted: what a checkpoint
	// of everything in the journal, deletions above all, may take.
	hostReserve = 48 << 20
	// freeInterval bounds the age of what is known about the host's free space.
	freeInterval = 5 * time.Millisecond
)

// admit holds an operation back while the journal is nearly full, or memory full
// of changes, before it has taken any lock. One that needs space, grow bytes of it, is refused with
// ErrNoSpace when the host has too little left; those that free space are not,
// so that a full volume can be emptied.
func (v *Volume) admit(grow int) error {
	if err := v.mayGrow(grow); err != nil {
		return err
	}
	return v.awaitRoom(busySlots, changesMost, grow)
}

// admitData is admit for a write to a file. Who overwrites at random faster than
// checkpoints take it away would fill journal and memory again each time, and
// everybody would wait for the checkpoint as often.
func (v *Volume) admitData(ino uint64, grow int) error {
	err := v.mayGrow(grow)
	switch {
	case err != nil || !v.crowded(heavySlots, heavyMost): // nobody waits yet
		return err
	case v.dataLock(ino).writes.Load() > heavyWrites:
		return v.awaitRoom(heavySlots, heavyMost, grow)
	}
	return v.awaitRoom(busySlots, changesMost, grow)
}

// mayGrow refuses what a stopped volume, or the host's space, does not allow.
func (v *Volume) mayGrow(grow int) error {
	if err := v.stopped(); err != nil || grow <= 0 {
		return err
	}
	return v.hasRoom(int64(grow))
}

// awaitRoom waits until fewer journal files are in use, and no more bytes of
// changes in memory.
func (v *Volume) awaitRoom(slots int, changes int64, grow int) error {
	if !v.crowded(slots, changes) {
		return nil
	}
	a := &v.admission
	a.Lock()
	defer a.Unlock()
	for v.crowded(slots, changes) {
		if err := v.stopped(); err != nil {
			return err
		}
		if a.full {
			// The checkpoint waits for space: what frees some must go on, into
			// the slots kept for it.
			if grow > 0 {
				return ErrNoSpace
			}
			return nil
		}
		v.wake()
		a.cond.Wait()
	}
	return nil
}

// crowded reports that so many journal files are in use, or that more bytes of
// changes are in memory.
func (v *Volume) crowded(slots int, changes int64) bool {
	return v.journal.used() >= slots || v.changes.Load() > changes
}

// rotated is told that a journal file has been begun.
func (v *Volume) rotated() {
	if v.journal.used() > dueSlots {
		v.wake()
	}
}

// hasRoom refuses an operation the host has no space for.
func (v *Volume) hasRoom(grow int64) error {
	a := &v.admission
	a.Lock()
	defer a.Unlock()
	if now := time.Now(); now.Sub(a.checked) > freeInterval {
		free, err := v.st.Free()
		if err != nil {
			return err
		}
		a.free, a.checked = free, now
	}
	if a.full || a.free < hostReserve+grow {
		return ErrNoSpace
	}
	a.free -= grow
	return nil
}

// hostFull reports whether the last checkpoint found no space.
func (v *Volume) hostFull() bool {
	v.admission.Lock()
	defer v.admission.Unlock()
	return v.admission.full
}

// checkQuota refuses to map more pages than the quota has. The caller holds v.mu.
func (v *Volume) checkQuota(morePages int64) error {
	if q := v.sb.Quota; q > 0 && morePages > 0 && (v.usedPages+uint64(morePages))*pageSize > q {
		return ErrQuota
	}
	return nil
}

// Statfs returns what statfs shows.
func (v *Volume) Statfs() (Usage, error) {
	free, err := v.st.Free()
	if err != nil {
		return Usage{}, err
	}
	avail := uint64(max(0, free-hostReserve))
	u := Usage{QuotaBytes: v.sb.Quota}
	err = v.view(func() error {
		u.UsedBytes, u.Files = v.usedPages*pageSize, v.files
		return nil
	})
	if u.QuotaBytes > 0 {
		avail = min(avail, u.QuotaBytes-min(u.QuotaBytes, u.UsedBytes))
	}
	u.FreeBytes = avail
	return u, err
}
