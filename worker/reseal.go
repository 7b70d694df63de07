package worker

import (
	"errors"
	"fmt"

	"cmkfs/meta"
	"cmkfs/store"
)

// KeyRequest asks under which account encryption key the volume's key is
// sealed. With New it is replaced before the answer is given.
type KeyRequest struct {
	ID   uint64  `json:"id"`             // the answer has the same
	From string  `json:"from,omitempty"` // with New: the account encryption key that the superblock must name
	New  *Sealed `json:"new,omitempty"`  // its AEKID and VEK are stored
}

// KeyAnswer is what the superblock says after the request, or why that could
// not be done. After a failed replacement either key may be in force: ask.
type KeyAnswer struct {
	ID     uint64  `json:"id"`
	Sealed *Sealed `json:"sealed,omitempty"`
	Failed *Failed `json:"failed,omitempty"`
}

// answerKey carries a KeyRequest out. replace does it with the volume's lock
// held.
func answerKey(dir store.Store, r KeyRequest, replace func(from string, to meta.KeyRecord) error) Reply {
	sealed, err := readSealed(dir)
	if err == nil && r.New != nil {
		if r.New.VolumeID != sealed.VolumeID {
			err = errors.New("the sealed key is another volume's")
		} else if err = replace(r.From, meta.KeyRecord{AEKID: r.New.AEKID, SealedVEK: r.New.VEK}); err == nil {
			sealed, err = readSealed(dir)
		}
	}
	if err != nil {
		return Reply{Key: &KeyAnswer{ID: r.ID, Failed: &Failed{Class: classOf(err), Reason: err.Error()}}}
	}
	return Reply{Key: &KeyAnswer{ID: r.ID, Sealed: &sealed}}
}

// readSealed reads the superblock.
func readSealed(dir store.Store) (Sealed, error) {
	block, err := meta.ReadSuperblock(dir)
	if err != nil {
		return Sealed{}, err
	}
	return Sealed{
		VolumeID: block.VolumeID, AEKID: block.AEKID, VEK: block.SealedVEK,
		Commitment: block.Commitment, Quota: block.Quota,
	}, nil
}

// sendKey answers a KeyRequest for the volume that is served.
func (s *serving) sendKey(r KeyRequest) {
	// A supervisor that is gone is noticed by the loop.
	_ = s.conn.Send(answerKey(s.dir, r, s.volume.Reseal))
}

// reseal is the life of a worker that has no key: it holds the volume's lock
// and answers questions about its superblock until the supervisor is done.
func (w *process) reseal(dir store.Store) int {
	lock, err := dir.Lock()
	if err != nil {
		return w.fail(classOf(err), err)
	}
	defer lock.Close()
	if err := w.conn.Send(Reply{Ready: &Ready{}}); err != nil {
		return ExitOrphan
	}
	for r := range w.requests {
		if r.Key == nil {
			return w.fail(ClassOther, fmt.Errorf("a request that a worker in mode %q does not know", ModeReseal))
		}
		if w.conn.Send(answerKey(dir, *r.Key, func(from string, to meta.KeyRecord) error {
			return meta.Reseal(dir, from, to)
		})) != nil {
			return ExitOrphan
		}
	}
	return ExitOK
}
