package meta

import (
	"errors"
	"fmt"

	"cmkfs/store"
)

// KeyRecord is the part of a superblock that changes in a volume's life: under
// which account encryption key the volume key is sealed.
type KeyRecord struct {
	AEKID     string // at most 255 bytes
	SealedVEK []byte // at most 512 bytes
}

// ErrOtherKey reports a volume key that is sealed under another account
// encryption key than the caller believed.
var ErrOtherKey = errors.New("the volume's key is not sealed under the expected account encryption key")

// Reseal replaces the key record of a volume that nobody has open; it needs no
// key, and no data is touched. The caller holds the store's lock and has made
// sure that to opens. from is the account encryption key that the superblock
// must name, or nothing is changed.
//
// Whatever happens, the superblock is the old one or the new one, complete.
// After an error it may be either: ReadSuperblock says which.
func Reseal(st store.Store, from string, to KeyRecord) error {
	sb, err := ReadSuperblock(st)
	if err != nil {
		return err
	}
	if len(to.AEKID) > 255 || len(to.SealedVEK) > 512 || to.AEKID == "" {
		return fmt.Errorf("%w: key fields are empty or too long", ErrInvalid)
	}
	if sb.AEKID != from {
		return fmt.Errorf("%w: it is %q, not %q", ErrOtherKey, sb.AEKID, from)
	}
	sb.AEKID, sb.SealedVEK = to.AEKID, to.SealedVEK
	old, err := st.Open(superblockName)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := dropTemp(st); err != nil {
		return hostError(err)
	}
	// A crash in here leaves the old superblock, perhaps with a new one beside
	// it that was never complete or never took effect: dropTemp removes it.
	if err := writeSuperblock(st, sb); err != nil {
		return hostError(err)
	}
	// From here on the new one is durable. The old one has no name any more,
	// but its block is still on the disk: it is overwritten, so that whoever
	// finds the old account key later does not find what it opens. That is all
	// that can be done from here, and no failure of the change if it fails.
	if _, err := old.WriteAt(make([]byte, superblockSize), 0); err == nil {
		_ = old.Sync()
	}
	return nil
}

// dropTemp removes the superblock of a change that did not come to its end.
func dropTemp(st store.Store) error { return removeAny(st, superblockTemp) }

// removeAny removes a file that may not be there.
func removeAny(st store.Store, name string) error {
	if err := st.Remove(name); err != nil && !errors.Is(err, store.ErrNotExist) {
		return err
	}
	return nil
}

// Reseal is the function Reseal for a volume that is open. Operations go on
// meanwhile: it shares nothing with them but the disk.
func (v *Volume) Reseal(from string, to KeyRecord) error {
	v.resealMu.Lock()
	defer v.resealMu.Unlock()
	if err := v.stopped(); err != nil {
		return err
	}
	return Reseal(v.st, from, to)
}
