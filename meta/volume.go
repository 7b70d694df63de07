package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cmkfs/crypto"
	"cmkfs/store"
)

// Config is what Open and Create need.
type Config struct {
	Store    store.Store
	Key      crypto.Key // the volume key
	VolumeID [16]byte
	Now      func() time.Time // nil = time.Now
	Log      *slog.Logger     // nil = discard
	// InFlight lists the requests that were read, by this process or a dead one
	// before it, and whose answer has not been written yet. Only these can be
	// delivered again, so a checkpoint keeps their results and drops all others.
	// As long as it is nil or returns nil, all results are kept.
	InFlight func() []uint64
	// Newest is the furthest position that is known of the volume, nil if none
	// is. Open refuses one that is behind it with *OlderError.
	Newest *Position
	// Answered is the last operation that programs may have been told of which go on
	// using the volume, 0 if there are none. Open refuses a volume that has lost it
	// with *LostError.
	Answered uint64
	// Reached is called, before anybody is told of them, with the last of the
	// operations that the death of this process does not undo; nil if nobody asks.
	Reached func(operation uint64)
}

// Volume is an open volume. Methods may be called concurrently.
type Volume struct {
	cfg      Config
	st       store.Store
	log      *slog.Logger
	now      func() time.Time
	sb       *Superblock
	keys     *volumeKeys
	lock     io.Closer
	index    *index
	journal  *journal
	segments *segments

	dataLocks [1024]dataLock // by inode
	unflushed atomic.Int64   // bytes of small writes of whole pages since a flush was asked for

	// mu is the state lock: it guards the fields below it up to the blank line.
	mu        sync.RWMutex
	active    *overlay // changes since the last freeze
	frozen    *overlay // changes a checkpoint is writing; nil = none
	decoded   decoded  // of their effective values
	seq       uint64   // the last operation
	usedPages uint64
	files     uint64
	nextIno   uint64
	session   uint64            // of the mount whose requests replies knows
	replies   map[uint64]uint64 // request → result
	orphans   map[uint64]struct{}
	inline    map[uint64]struct{} // inodes with small data to migrate, and some without
	space     *space
	sharing   bool // blocks may have further references: the table of them was not empty once
	due       bool // a checkpoint was asked for since the last freeze

	changes atomic.Int64 // bytes of active and frozen

	atimes accessTimes // what reads have changed; innermost lock
	torn   torn        // what lies in many pieces; its mu is an innermost lock, too

	syncMu      sync.Mutex    // one flush at a time; others share its result; guards marked
	marked      uint64        // the last marker in the journal
	unmarked    []block       // while the volume is opened: replayed blocks that no marker covers
	wroteBlocks atomic.Uint64 // the last operation that wrote blocks to a segment

	reclaimMu sync.Mutex // one reclaim at a time

	checkpointMu sync.Mutex // one checkpoint at a time; guards committed and mostNodes
	mostNodes    int64      // see the constant
	committed    *summary
	checkpointed atomic.Pointer[Position] // of committed

	proven uint64 // what the journal says is durable; the background's

	admission struct {
		sync.Mutex
		cond    *sync.Cond
		full    bool      // the host has no room for a checkpoint
		checked time.Time // when free was asked for
		free    int64     // bytes the host could take then
	}

	// What follows serves Repair.
	lost     func(where, format string, args ...any) // told what damage costs; nil = damage is an error
	lastSeen uint64                                  // highest number of an operation the journal speaks of
	badSlots []string                                // journal files that were left out

	resealMu sync.Mutex // held while the superblock is replaced, and when the lock is given up

	stop     context.CancelFunc
	kick     chan struct{}
	wg       sync.WaitGroup
	failOnce sync.Once
	failed   chan struct{}
	state    atomic.Int32 // open, failed, closed
}

const (
	stateOpen = iota
	stateFailed
	stateClosed
)

// Failed is closed when an I/O error has stopped the volume: what is in memory
// and what is on disk may differ, so nothing more is answered. Opening the
// volume anew recovers everything that was answered.
func (v *Volume) Failed() <-chan struct{} { return v.failed }

func (v *Volume) fail(err error) {
	v.failOnce.Do(func() {
		v.log.Error("the volume stops after an I/O error", "err", err)
		v.state.CompareAndSwap(stateOpen, stateFailed)
		close(v.failed)
		v.wakeWaiters()
	})
}

// wakeWaiters makes the operations that wait for a checkpoint look again. The
// lock closes the gap between their look and their wait.
func (v *Volume) wakeWaiters() {
	v.admission.Lock()
	defer v.admission.Unlock()
	v.admission.cond.Broadcast()
}

// stopped returns why the volume takes no operations, nil if it does.
func (v *Volume) stopped() error {
	switch v.state.Load() {
	case stateFailed:
		return ErrFailed
	case stateClosed:
		return ErrClosed
	}
	return nil
}

// Quota returns the volume's quota in bytes, 0 if it has none.
func (v *Volume) Quota() uint64 { return v.sb.Quota }

// update runs one operation: fn computes it in a tx, update journals it. With
// replayed true the request was applied before, fn was not called, and result
// is what it was answered with.
func (v *Volume) update(c Caller, fn func(t *tx) error) (result uint64, replayed bool, err error) {
	v.torn.use()
	result, seq, replayed, err := v.updateQueued(c, fn)
	if err != nil || replayed {
		return result, replayed, err
	}
	if err := v.written(seq); err != nil {
		return 0, false, err // no caller may take a part for done
	}
	return result, false, nil
}

// updateQueued is update for an operation nobody waits for: its record is
// queued, and reaches the page cache with the next one that is waited for.
func (v *Volume) updateQueued(c Caller, fn func(t *tx) error) (result, seq uint64, replayed bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r, ok := v.replayed(c); ok {
		return r, 0, true, nil
	}
	t := v.newTx(c)
	if err := fn(t); err != nil {
		return 0, 0, false, err
	}
	if seq, err = t.commit(); err != nil {
		return 0, 0, false, err // it is not in the journal: no caller may take a part for done
	}
	return t.result, seq, false, nil
}

// written returns once an operation would survive the death of this process.
func (v *Volume) written(seq uint64) error {
	if err := v.journal.write(seq); err != nil {
		v.fail(err)
		return ErrFailed
	}
	return nil
}

// dataLock returns the data lock of an inode.
func (v *Volume) dataLock(ino uint64) *dataLock { return &v.dataLocks[ino%uint64(len(v.dataLocks))] }

// view runs fn under the state lock, shared.
func (v *Volume) view(fn func() error) error {
	if err := v.stopped(); err != nil {
		return err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return fn()
}

// Sync makes everything answered so far durable. Callers at the same time
// share flushes. After an error the volume is stopped (see Failed): what the
// host's page cache holds after a failed flush is not what its disk holds.
func (v *Volume) Sync(ctx context.Context) error {
	v.unflushed.Store(0)
	return v.flush()
}

// flush is Sync for the background, which nobody asked.
func (v *Volume) flush() error {
	if err := v.stopped(); err != nil {
		return err
	}
	return v.syncTo(v.lastSeq())
}

// lastSeq is the number of the last operation.
func (v *Volume) lastSeq() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.seq
}

// syncTo makes all operations up to target durable: segment data, then the
// marker that says so, then the journal. A crash before the last step ends
// leaves a prefix that may or may not contain target.
func (v *Volume) syncTo(target uint64) error {
	if v.journal.durable.Load() >= target {
		return nil
	}
	if err := v.written(target); err != nil {
		return err
	}
	v.syncMu.Lock()
	defer v.syncMu.Unlock()
	if v.journal.durable.Load() >= target {
		return nil
	}
	// The flush that was waited for may have failed. The kernel takes what it should
	// have written for clean, so another one would succeed without it.
	if err := v.stopped(); err != nil {
		return err
	}
	upTo := v.journal.written.Load()
	err := v.segments.sync()
	// Not only if this flush wrote something: an earlier one may have had the
	// blocks of an operation that had not committed yet. Without a marker behind
	// it, recovery would look for its blocks, which may be dead and punched then.
	if err == nil && v.wroteBlocks.Load() > v.marked {
		if err = v.journal.marker(upTo); err == nil {
			v.marked = upTo
		}
	}
	if err == nil {
		err = v.journal.sync()
	}
	if err != nil {
		v.flushFailed()
		v.fail(err)
		return ErrFailed
	}
	v.journal.durable.Store(upTo)
	return nil
}

const (
	// syncInterval bounds how long an answered operation stays only in the
	// host's page cache.
	syncInterval = time.Second
	// checkpointInterval bounds the journal that a quiet volume leaves to replay.
	checkpointInterval = 30 * time.Second
)

// background flushes, checkpoints and reclaims until ctx ends.
func (v *Volume) background(ctx context.Context) {
	tick := time.NewTicker(syncInterval)
	defer tick.Stop()
	last := time.Now()
	for {
		due := false
		select {
		case <-ctx.Done():
			return
		case <-v.failed:
			return
		case <-v.kick:
			due = true
		case <-v.atimes.full:
			_ = v.saveAllAccessTimes(v.tryCheckpoint) // what failed is retried when the next checkpoint is due
			continue
		case <-tick.C:
			due = time.Since(last) >= checkpointInterval || v.hostFull()
		}
		if v.flush() != nil {
			return // fail has said why
		}
		v.prove()
		v.reclaimSynced()
		if err := v.segments.trim(); err != nil {
			v.log.Warn("a segment could not be closed", "err", err)
		}
		if due {
			// Access times follow, since there is room now. Failures were told.
			if v.tryCheckpoint() == nil {
				_ = v.saveAllAccessTimes(v.tryCheckpoint)
			}
			last = time.Now()
		}
	}
}

// reclaimSynced gives the host the space back that durable operations freed.
func (v *Volume) reclaimSynced() {
	v.reclaimMu.Lock()
	defer v.reclaimMu.Unlock()
	if err := v.reclaim(v.journal.durable.Load()); err != nil {
		v.log.Warn("dead space could not be given back to the host", "err", err)
	}
}

// wake asks the background for a checkpoint.
func (v *Volume) wake() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}

// Close writes a checkpoint and releases the volume. Its journal is then empty:
// the next Open has nothing to replay.
func (v *Volume) Close(ctx context.Context) error {
	if v.state.Load() == stateOpen {
		v.stop()
		v.wg.Wait()
		// A full host may refuse the checkpoint: the journal still has everything.
		err := v.saveAllAccessTimes(v.checkpoint)
		if err == nil {
			err = v.checkpoint()
		}
		if err != nil && !errors.Is(err, ErrNoSpace) && v.state.Load() == stateOpen {
			v.log.Error("the last checkpoint failed; the journal keeps everything", "err", err)
		}
	}
	return v.release()
}

// Abandon releases the volume without a checkpoint, as a crash of the process
// would: recovery is the same.
func (v *Volume) Abandon() error { return v.release() }

func (v *Volume) release() error {
	failed := v.state.Swap(stateClosed) == stateFailed
	v.stop()
	v.wg.Wait()
	v.wakeWaiters()
	v.resealMu.Lock() // the next owner of the lock must not meet it half way
	defer v.resealMu.Unlock()
	err := errors.Join(v.closeFiles(), v.lock.Close())
	if failed {
		return ErrFailed
	}
	if err != nil {
		return fmt.Errorf("close volume: %w", err)
	}
	return nil
}
