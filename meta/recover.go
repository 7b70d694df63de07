package meta

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"cmkfs/crypto"
)

// Open opens a volume: index, then every operation of the journal that the
// index does not contain, applied as it was the first time. It is the restart
// of every worker. The first operations after the last durable point are
// verified down to their data blocks, since after a crash of the host the
// journal's page may be there and the segment's not: the volume becomes the
// longest prefix of its history that is complete.
func Open(ctx context.Context, cfg Config) (*Volume, error) {
	lock, err := cfg.Store.Lock()
	if err != nil {
		return nil, err
	}
	v, err := open(cfg)
	if err == nil {
		err = v.compare(cfg.Newest)
		if err == nil && v.seq < cfg.Answered {
			err = &LostError{Have: v.seq, Answered: cfg.Answered}
		}
		if err == nil {
			err = v.begin()
		}
		if err != nil {
			err = errors.Join(err, v.closeFiles())
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	v.lock = lock
	ctx, v.stop = context.WithCancel(context.WithoutCancel(ctx))
	v.wg.Go(func() { v.background(ctx) })
	v.wg.Go(func() { v.gatherer(ctx) })
	return v, nil
}

func open(cfg Config) (*Volume, error) { return openWith(cfg, nil) }

// openWith opens a volume for reading. What is damaged in the journal ends in
// an error, unless there is somebody to tell what is lost with it.
func openWith(cfg Config, lost func(where, format string, args ...any)) (*Volume, error) {
	sb, err := ReadSuperblock(cfg.Store)
	if err != nil {
		return nil, err
	}
	if err := sb.verify(cfg.Key); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	v := &Volume{
		cfg: cfg, st: cfg.Store, log: cfg.Log, now: cfg.Now, sb: sb, keys: deriveKeys(cfg.Key),
		active: newOverlay(), replies: make(map[uint64]uint64), orphans: make(map[uint64]struct{}), inline: make(map[uint64]struct{}),
		space: newSpace(), mostNodes: mostNodes, lost: lost, kick: make(chan struct{}, 1), failed: make(chan struct{}),
	}
	v.atimes.full = make(chan struct{}, 1)
	v.torn.chunks = make(map[chunk]uint32)
	if v.now == nil {
		v.now = time.Now
	}
	v.admission.cond = sync.NewCond(&v.admission)
	if v.index, err = openIndex(cfg.Store, v.keys, sb.VolumeID); err != nil {
		return nil, err
	}
	if err := v.recover(); err != nil {
		return nil, errors.Join(err, v.closeFiles())
	}
	return v, nil
}

func (v *Volume) closeFiles() error {
	var err error
	if v.journal != nil {
		err = v.journal.close()
	}
	if v.segments != nil {
		err = errors.Join(err, v.segments.close())
	}
	return errors.Join(err, v.index.close())
}

// recover brings index and journal together in memory; it writes nothing.
func (v *Volume) recover() error {
	s, err := v.index.summary()
	if err != nil {
		return err
	}
	v.committed = s
	v.checkpointed.Store(s.position())
	v.seq, v.usedPages, v.files, v.nextIno, v.session = s.seq, s.usedPages, s.files, s.nextIno, s.session
	for unique, result := range s.replies {
		v.replies[unique] = result
	}
	if err := v.loadCounts(); err != nil {
		return err
	}
	names, err := v.st.List(segmentDir)
	if err != nil {
		return err
	}
	nextSeg := s.nextSeg
	for _, name := range names {
		if id, ok := segmentID(name); ok && id >= nextSeg {
			nextSeg = id + 1
		}
	}
	v.segments = newSegments(v.st, v.keys.segment, v.sb.VolumeID, nextSeg)
	v.journal = &journal{st: v.st, base: v.keys.journal, volumeID: v.sb.VolumeID, size: v.sb.JournalBytes, rotated: v.rotated, noted: v.cfg.Reached}
	if err := v.replay(); err != nil {
		return err
	}
	through, err := v.index.through()
	if err != nil {
		return err
	}
	if v.seq < through {
		err := fmt.Errorf("operations %d to %d were durable and are missing or damaged", v.seq+1, through)
		if v.lost == nil {
			return &CorruptError{Where: journalDir, Err: err}
		}
		v.lost(journalDir, "%v; some of what they changed is in the index", err)
	}
	v.journal.durable.Store(s.seq)
	v.journal.written.Store(v.seq)
	return v.loadOrphans()
}

// begin makes a recovered volume writable: with a new journal file, and later a
// new segment. It never appends to a file of an earlier process: a position
// whose content may differ between two histories (a restored backup) would
// repeat a nonce.
func (v *Volume) begin() error {
	if err := errors.Join(dropTemp(v.st), removeAny(v.st, tagsTemp)); err != nil {
		return hostError(err)
	}
	if err := v.settleIndex(); err != nil {
		return hostError(err)
	}
	if err := v.journal.begin(); err != nil {
		return hostError(err)
	}
	if err := v.repeatWrites(); err != nil {
		return err
	}
	v.unmarked = nil
	// An older index put in the place of this one is noticed from here on.
	if err := v.journal.marker(v.committed.seq); err != nil {
		return hostError(err)
	}
	v.proven = v.committed.seq
	if err := v.dropEmptySegments(); err != nil {
		return err
	}
	if v.seq != v.committed.seq {
		v.wake()
	}
	return nil
}

// loadCounts reads the segments' live pages, and whether blocks are shared.
func (v *Volume) loadCounts() error {
	err := v.index.scan(tableShared, func(i *indexIter) error {
		first, _ := i.c.First()
		v.sharing = first != nil
		return nil
	})
	if err != nil {
		return err
	}
	return v.index.forEach(tableSegment, func(k key, sealed []byte) error {
		val, err := v.index.unseal(k, sealed)
		if err != nil && v.lost != nil {
			return nil // counted anew later
		}
		if err != nil {
			return err
		}
		n, err := decodeCount(k, val)
		v.space.live[k.a] = int64(n)
		return err
	})
}

// loadOrphans lists the unlinked inodes that were still held.
func (v *Volume) loadOrphans() error {
	err := v.index.forEach(tableOrphan, func(k key, _ []byte) error {
		v.orphans[k.a] = struct{}{}
		return nil
	})
	v.active.tree.Scan(func(it item) bool {
		switch {
		case it.key.t == tableOrphan && it.val != nil:
			v.orphans[it.key.a] = struct{}{}
		case it.key.t == tableOrphan:
			delete(v.orphans, it.key.a)
		case it.key.t == tablePage && it.val != nil:
			v.inline[it.key.a] = struct{}{}
		}
		return true
	})
	return err
}

// dropEmptySegments removes segments nothing refers to: the last segment of a
// process that wrote data whose operation never came, or whose removal a crash
// undid.
func (v *Volume) dropEmptySegments() error {
	names, err := v.st.List(segmentDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := segmentID(name)
		if !ok || v.space.live[id] != 0 {
			continue
		}
		if v.freedBySomeone(id) {
			continue // its operations are not durable yet; reclaim removes it
		}
		if err := v.segments.remove(id); err != nil {
			v.log.Warn("an unused segment could not be removed", "err", err)
		}
	}
	return nil
}

// slotScan is one journal file as recovery reads it.
type slotScan struct {
	slot   *slot
	header *fileHeader // nil = nothing needed in it
	cipher *crypto.Sequence
	data   []byte
	until  uint64 // operations from this number on belong to a later file
}

// replay applies the journal and leaves its files in v.journal.
func (v *Volume) replay() error {
	scans, err := v.readSlots()
	if err != nil {
		return err
	}
	ops, durable, err := v.readOperations(scans)
	if err != nil {
		return err
	}
	for i := range ops {
		op := &ops[i]
		if op.seq <= v.seq {
			continue
		}
		v.segments.passed(op.alloc)
		if op.seq > durable {
			if err := v.verifyData(op); err != nil {
				v.log.Warn("recovery ends before an operation whose data did not reach the disk", "op", op.seq, "err", err)
				break
			}
			v.unmarked = append(v.unmarked, op.alloc...)
		}
		if err := v.apply(op, nil); err != nil {
			if v.lost != nil {
				v.lost(journalDir, "operation %d and all later ones are lost: it changes a value that cannot be read", op.seq)
				break
			}
			return fmt.Errorf("replay operation %d: %w", op.seq, err)
		}
		v.markDirty(op)
	}
	// The number of a segment that is missing is not given again.
	for id := range v.space.live {
		v.segments.mu.nextID = max(v.segments.mu.nextID, id+1)
	}
	for _, sc := range scans {
		if sc.slot.epoch != 0 {
			sc.slot.last = min(sc.slot.last, v.seq)
			sc.slot.dirty = true // its pages may be in the host's cache only
		}
	}
	return nil
}

// markDirty makes the next flush include what an operation of an earlier
// process wrote.
func (v *Volume) markDirty(op *operation) {
	for _, b := range op.alloc {
		if seg, err := v.segments.get(b.seg); err == nil {
			v.segments.mu.Lock()
			v.segments.mu.dirty[b.seg] = seg
			v.segments.mu.fresh = true
			v.segments.mu.Unlock()
		}
	}
}

// readSlots opens every journal file and orders those that hold something.
func (v *Volume) readSlots() ([]*slotScan, error) {
	names, err := v.st.List(journalDir)
	if err != nil {
		return nil, err
	}
	j := v.journal
	var scans []*slotScan
	for _, name := range names {
		if strings.HasSuffix(name, slotTemp) {
			continue // a crash interrupted its making
		}
		f, err := v.st.Open(journalDir + "/" + name)
		if err != nil {
			return nil, err
		}
		sl := &slot{name: journalDir + "/" + name, file: f}
		j.mu.slots = append(j.mu.slots, sl)
		size, err := f.Size()
		if err != nil {
			return nil, err
		}
		if size != j.size {
			if err := v.giveUpSlot(fmt.Errorf("it has %d bytes instead of %d", size, j.size)); err != nil {
				return nil, err
			}
			continue
		}
		page := make([]byte, pageSize)
		if _, err := f.ReadAt(page, 0); err != nil {
			return nil, err
		}
		h, cipher, err := readHeader(page, journalMagic, v.sb.VolumeID, j.base)
		if err != nil {
			// Not a torn write: the header lies within one disk sector.
			if err := v.giveUpSlot(err); err != nil {
				return nil, err
			}
			continue
		}
		if h == nil {
			continue
		}
		j.mu.epoch = max(j.mu.epoch, h.number)
		scans = append(scans, &slotScan{slot: sl, header: h, cipher: cipher, until: math.MaxUint64})
	}
	if len(j.mu.slots) == 0 && v.lost == nil {
		return nil, &CorruptError{Where: journalDir, Err: errors.New("there are no journal files")}
	}
	slices.SortFunc(scans, func(a, b *slotScan) int { return cmp.Compare(a.header.number, b.header.number) })
	for i := len(scans) - 2; i >= 0; i-- {
		scans[i].until = min(scans[i+1].until, scans[i+1].header.first)
	}
	return scans, nil
}

// giveUpSlot leaves the last journal file out, which is damaged.
func (v *Volume) giveUpSlot(err error) error {
	slots := v.journal.mu.slots
	sl := slots[len(slots)-1]
	if v.lost == nil {
		return &CorruptError{Where: sl.name, Err: err}
	}
	v.lost(sl.name, "the operations in it are lost: %v", err)
	v.badSlots = append(v.badSlots, sl.name)
	v.journal.mu.slots = slots[:len(slots)-1]
	return sl.file.Close()
}

// readOperations returns the operations behind the index's last one, of all
// files in one order without gaps, and the number of the last operation whose
// data is known to be durable.
func (v *Volume) readOperations(scans []*slotScan) (ops []operation, durable uint64, err error) {
	next := v.seq + 1
	proved, durable := v.seq, v.seq
	gap := false
	buf := make([]byte, v.journal.size)
	for _, sc := range scans {
		sc.data = buf // one for all: a record's plaintext is a copy
		if _, err := sc.slot.file.ReadAt(sc.data, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		got, data, journal := sc.records()
		// A marker may have reached the disk before a crash that cost operations
		// it speaks of; those with their numbers in a later file are others.
		data = max(min(data, sc.until-1), journal)
		durable, proved = max(durable, data), max(proved, journal)
		v.lastSeen = max(v.lastSeen, data)
		if n := len(got); n > 0 {
			v.lastSeen = max(v.lastSeen, got[n-1].seq)
		}
		if data > v.seq {
			// What the file says of operations in others is needed with them.
			sc.slot.epoch, sc.slot.last = sc.header.number, data
		}
		for _, op := range got {
			if op.seq <= v.seq {
				continue
			}
			if gap || op.seq != next || op.seq >= sc.until {
				gap = gap || op.seq < sc.until
				break
			}
			next++
			ops = append(ops, op)
			sc.slot.epoch, sc.slot.last = sc.header.number, max(sc.slot.last, op.seq)
		}
		sc.data = nil
	}
	if proved >= next && v.lost != nil {
		v.lost(journalDir, "operations %d to %d are lost: they were durable and are missing or damaged", next, max(proved, v.lastSeen))
	} else if proved >= next {
		return nil, 0, &CorruptError{Where: journalDir, Err: fmt.Errorf("operations %d to %d were durable and are missing or damaged", next, proved)}
	}
	return ops, durable, nil
}

// records decodes the valid records of a file from its begin. data is the
// highest number up to which a marker says that segment data is durable,
// journal the highest up to which a record says that everything was. Behind the
// first invalid record, usually the end, it looks for further ones: what they
// call durable was so once, and if it is missing now, that is damage and no
// torn write.
func (sc *slotScan) records() (ops []operation, data, journal uint64) {
	pos, number := pageSize, uint64(1)
	for {
		r := sc.record(pos, number)
		if r.size == 0 {
			break
		}
		journal = max(journal, r.durable)
		switch r.kind {
		case kindMarker:
			data = max(data, r.number)
		case kindOps:
			got, err := decodeOperations(r.plain, r.number)
			if err != nil {
				return ops, data, journal
			}
			ops = append(ops, got...)
		}
		pos, number = pos+r.size, number+1
	}
	for pos += recordAlign; pos+recordHeader <= len(sc.data); pos += recordAlign {
		if binary.LittleEndian.Uint32(sc.data[pos:]) != recordMagic {
			continue
		}
		if n := binary.LittleEndian.Uint64(sc.data[pos+24:]); n > number {
			journal = max(journal, sc.record(pos, n).durable)
		}
	}
	return ops, data, journal
}

// scannedRecord is a record found in a journal file; size 0 = none.
type scannedRecord struct {
	kind    uint8
	number  uint64
	durable uint64
	plain   []byte
	size    int // bytes it takes in the file
}

// record opens the record at pos, which must have the given number.
func (sc *slotScan) record(pos int, number uint64) (r scannedRecord) {
	le := binary.LittleEndian
	if pos+recordHeader+tagSize > len(sc.data) {
		return r
	}
	h := sc.data[pos : pos+recordHeader]
	length := int(le.Uint32(h[8:]))
	if le.Uint32(h) != recordMagic || h[4] != recordVersion || le.Uint64(h[24:]) != number || length > len(sc.data)-pos-recordHeader-tagSize {
		return r
	}
	body := sc.data[pos+recordHeader : pos+recordHeader+length+tagSize]
	plain, err := sc.cipher.Open(nil, number, body, h)
	if err != nil {
		return r
	}
	return scannedRecord{h[5], le.Uint64(h[16:]), le.Uint64(h[32:]), plain, align(recordHeader+length+tagSize, recordAlign)}
}

// verifyData reads the blocks an operation wrote.
func (v *Volume) verifyData(op *operation) error {
	if len(op.alloc) == 0 {
		return nil
	}
	mine := make(map[block]struct{}, len(op.alloc))
	for _, b := range op.alloc {
		mine[b] = struct{}{}
	}
	scratch := make([]byte, blockPages*pageSize+tagSize)
	for i := range op.muts {
		m := &op.muts[i]
		if m.key.t != tableRegion || m.kind != mutPut {
			continue
		}
		ptrs, err := decodeRegion(m.key.a, m.key.b, m.data)
		if err != nil {
			return err
		}
		for k := range ptrs {
			if _, ok := mine[ptrs[k].block()]; !ok {
				continue
			}
			if _, err := v.segments.readBlock(&ptrs[k], scratch); err != nil {
				return err
			}
		}
	}
	return nil
}
