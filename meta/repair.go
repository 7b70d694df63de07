package meta

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cmkfs/crypto"
)

// RepairOptions chooses what Repair may do.
type RepairOptions struct {
	Excise   bool                    // remove what cannot be read
	Progress func(done, total int64) // told now and then: pages scrubbed; nil = nobody
}

// Repaired is one thing Repair did.
type Repaired struct {
	Where string `json:"where"`
	What  string `json:"what"`
	Lost  bool   `json:"lost"` // something that was written is gone with it

	ino uint64 // of which file it is, 0 = none
}

func (r Repaired) String() string { return r.Where + ": " + r.What }

// ErrNeedsExcise reports a volume that cannot be repaired without removing what
// cannot be read.
var ErrNeedsExcise = errors.New("some of the volume cannot be read")

// Repair makes a volume that is not open consistent. Counts are computed anew,
// inodes without a name go to /lost+found, segments without a live block are
// removed. What cannot be read stops it with ErrNeedsExcise, with nothing
// changed, unless Excise says to remove that; then it is listed.
//
// Names of users appear in what is returned, and nowhere else: who asks must
// learn what is gone.
//
// Each step ends in one atomic change: (1) a damaged index is replaced by one
// made of what can be read, (2) everything else is one transaction of the
// index, which also takes over the journal, (3) damaged journal files and
// unused segments are replaced. A crash leaves a volume that Repair finishes.
func Repair(ctx context.Context, cfg Config, opt RepairOptions) ([]Repaired, error) {
	lock, err := cfg.Store.Lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	r := &repairer{ctx: ctx, cfg: cfg, opt: opt}
	v, err := open(cfg)
	if err != nil {
		if v, err = r.openDamaged(err); err != nil {
			return r.did, err
		}
	}
	r.v = v
	err = r.run()
	return r.did, errors.Join(err, v.closeFiles())
}

// repairer is one repair of a volume, which it holds open and alone.
type repairer struct {
	ctx context.Context
	cfg Config
	opt RepairOptions
	v   *Volume
	did []Repaired
}

func (r *repairer) done(where, format string, args ...any) {
	r.did = append(r.did, Repaired{Where: where, What: fmt.Sprintf(format, args...)})
}

// lostOf is lost for what belongs to an inode, whose name is added later.
func (r *repairer) lostOf(ino uint64, format string, args ...any) {
	r.did = append(r.did, Repaired{Where: fmt.Sprintf("inode %d", ino), What: fmt.Sprintf(format, args...), Lost: true, ino: ino})
}

func (r *repairer) lost(where, format string, args ...any) {
	r.did = append(r.did, Repaired{Where: where, What: fmt.Sprintf(format, args...), Lost: true})
}

// openDamaged opens a volume whose index or journal is damaged.
func (r *repairer) openDamaged(cause error) (*Volume, error) {
	var corrupt *CorruptError
	if !errors.As(cause, &corrupt) || corrupt.Where == superblockName {
		return nil, cause // without a superblock there is no key to read anything with
	}
	if !r.opt.Excise {
		return nil, fmt.Errorf("%w: %w", ErrNeedsExcise, cause)
	}
	sb, err := ReadSuperblock(r.cfg.Store)
	if err != nil {
		return nil, err
	}
	if err := sb.verify(r.cfg.Key); err != nil {
		return nil, err
	}
	x, err := openIndex(r.cfg.Store, deriveKeys(r.cfg.Key), sb.VolumeID)
	if err == nil {
		_, err = x.summary()
		err = errors.Join(err, x.close())
	}
	if err != nil {
		if err := r.rebuildIndex(sb); err != nil {
			return nil, fmt.Errorf("rebuild the index: %w", err)
		}
	}
	return openWith(r.cfg, r.lost)
}

// run repairs what an open volume holds and makes it durable.
func (r *repairer) run() error {
	v := r.v
	if err := errors.Join(dropTemp(v.st), removeAny(v.st, tagsTemp), removeAny(v.st, indexTemp)); err != nil {
		return hostError(err)
	}
	if err := v.index.settle(false); err != nil {
		return err
	}
	for _, step := range []func() error{r.dropValues, r.dropBlocks, r.recreateInodes, r.fixEntries, r.reconnect, r.fixCounts} {
		if err := step(); err != nil {
			return err
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
	}
	if err := r.addNames(); err != nil {
		return err
	}
	sum, err := v.index.sum()
	if err != nil {
		return err
	}
	if sum != v.index.setHash {
		r.done(indexName, "the set hash is computed anew")
		v.index.setHash = sum
	}
	if err := v.compare(r.cfg.Newest); err != nil {
		if !r.opt.Excise {
			return err
		}
		r.lost("volume", "%v: what was written later is gone", err)
	}
	unused, err := r.unusedSegments()
	if err != nil || len(r.did)+len(unused) == 0 {
		return err
	}
	if err := r.commit(); err != nil {
		return err
	}
	return r.replaceFiles(unused)
}

// commit writes the repaired state in one transaction. Its operation number is
// beyond all that the journal has or had, which is thereby taken over.
func (r *repairer) commit() error {
	v := r.v
	if err := v.segments.sync(); err != nil {
		return err
	}
	seen := Position{}
	if r.cfg.Newest != nil {
		seen = *r.cfg.Newest
	}
	s := &summary{
		seq: max(v.seq, v.lastSeen, seen.Operation), commits: max(v.committed.commits, seen.Checkpoints) + 1, usedPages: v.usedPages, files: v.files, nextIno: v.nextIno,
		nextSeg: v.segments.nextID(),
	}
	if err := v.index.commit(v.active, s); err != nil {
		return fmt.Errorf("write the index: %w", err)
	}
	return nil
}

// unusedSegments lists the segments that nothing is in.
func (r *repairer) unusedSegments() (unused []uint64, err error) {
	names, err := r.v.st.List(segmentDir)
	for _, name := range names {
		if id, ok := segmentID(name); ok && r.v.space.live[id] == 0 {
			unused = append(unused, id)
		}
	}
	return unused, err
}

// replaceFiles replaces the journal files that cannot be used and removes the
// unused segments, now that nothing durable needs them.
func (r *repairer) replaceFiles(unused []uint64) error {
	for _, name := range r.v.badSlots {
		s, err := r.v.journal.addSlot(name)
		if err == nil {
			err = s.file.Close()
		}
		if err != nil {
			return err
		}
		r.done(name, "the journal file is replaced by an empty one")
	}
	for _, id := range unused {
		if err := r.v.segments.remove(id); err != nil {
			return err
		}
		r.done(segmentName(id), "nothing is in it: removed")
	}
	return r.v.st.SyncDir(segmentDir)
}

// sum is the set hash of the stored values.
func (x *index) sum() (sum crypto.SetHash, err error) {
	for t := tableInode; t <= tableMax && err == nil; t++ {
		err = x.forEach(t, func(k key, sealed []byte) error {
			sum = sum.Add(x.element(k, sealed))
			return nil
		})
	}
	return sum, err
}

// look runs the check's tables over the state as it is now.
func (r *repairer) look() (*checker, error) {
	c := newChecker(r.ctx, r.v, CheckOptions{})
	for _, step := range []func() error{c.readInodes, c.readDirents, c.readXattrs, c.readPages, c.readRegions, c.readShared, c.readOrphans} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	c.compareReach()
	return c, nil
}

// now is the time that repaired inodes get.
func (r *repairer) now() uint64 { return timeToDisk(time.Now()) }
