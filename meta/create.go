package meta

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"cmkfs/store"
)

// Params are the properties a volume is created with.
type Params struct {
	JournalBytes int64  // of one journal file, 0 = DefaultJournalBytes
	Quota        uint64 // bytes, 0 = none
	AEKID        string // which account encryption key SealedVEK is under, at most 255 bytes
	SealedVEK    []byte // the volume key, sealed
	Commitment   []byte // crypto.Commit(volume key, volume id)
}

// ErrVolumeExists reports a store that Create found in use.
var ErrVolumeExists = errors.New("there is a volume here already")

// Create formats an empty store. The superblock comes last: a crash before
// leaves a store without one, in which nothing can be opened.
func Create(_ context.Context, cfg Config, p Params) error {
	if p.JournalBytes == 0 {
		p.JournalBytes = DefaultJournalBytes
	}
	if p.JournalBytes < minJournalBytes || p.JournalBytes > maxJournalBytes || p.JournalBytes%pageSize != 0 {
		return fmt.Errorf("%w: a journal file has %d to %d bytes, a multiple of %d", ErrInvalid, minJournalBytes, maxJournalBytes, pageSize)
	}
	if len(p.AEKID) > 255 || len(p.SealedVEK) > 512 || len(p.Commitment) > 64 {
		return fmt.Errorf("%w: key fields are too long", ErrInvalid)
	}
	lock, err := cfg.Store.Lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := ReadSuperblock(cfg.Store); !errors.Is(err, ErrNoVolume) {
		return errors.Join(ErrVolumeExists, err)
	}
	now := time.Now
	if cfg.Now != nil {
		now = cfg.Now
	}
	sb := &Superblock{
		Version: FormatVersion, VolumeID: cfg.VolumeID, Created: now().Truncate(time.Second), JournalBytes: p.JournalBytes,
		Quota: p.Quota, AEKID: p.AEKID, SealedVEK: p.SealedVEK, Commitment: p.Commitment,
	}
	sb.seal(cfg.Key)
	if err := sb.verify(cfg.Key); err != nil {
		return err
	}
	if err := createFiles(cfg, sb, timeToDisk(now())); err != nil {
		return hostError(err)
	}
	return hostError(writeSuperblock(cfg.Store, sb))
}

// writeSuperblock makes the superblock, complete or not at all, once
// everything else in the root folder is durable.
func writeSuperblock(st store.Store, sb *Superblock) error {
	if err := st.SyncDir(""); err != nil {
		return err
	}
	f, err := st.Create(superblockTemp, superblockSize)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(sb.marshal(), 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := st.Rename(superblockTemp, superblockName); err != nil {
		return err
	}
	return st.SyncDir("")
}

// createFiles makes everything but the superblock.
func createFiles(cfg Config, sb *Superblock, now uint64) error {
	st := cfg.Store
	if err := errors.Join(st.Mkdir(journalDir), st.Mkdir(segmentDir)); err != nil {
		return err
	}
	for i := range initialSlots {
		f, err := st.Create(fmt.Sprintf("%s/%02d", journalDir, i), sb.JournalBytes)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	if err := errors.Join(st.SyncDir(journalDir), st.SyncDir(segmentDir)); err != nil {
		return err
	}
	err := createIndex(st, deriveKeys(cfg.Key), cfg.VolumeID, func(tx *bbolt.Tx, x *index) error {
		root := &inode{ino: RootIno, mode: unix.S_IFDIR | 0o755, nlink: 2, size: pageSize, parent: RootIno, atime: now, mtime: now, ctime: now, btime: now}
		o := newOverlay()
		o.put(key{tableInode, RootIno, 0}, root.marshal())
		s := &summary{files: 1, nextIno: RootIno + 1, nextSeg: 1}
		if err := x.write(tx, o, s); err != nil {
			return err
		}
		return x.putSummary(tx, s)
	})
	if err != nil {
		return fmt.Errorf("create the index: %w", err)
	}
	return nil
}
