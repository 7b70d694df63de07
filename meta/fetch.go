package meta

// What the host has not cached has to be waited for, and a disk does many things
// at a time, or one large one, about as fast as one small one. So the host is told
// of what will be read before it is read.

const (
	// runBlocks bounds what is read and decrypted at once, 256 KiB as blocks are
	// written: what the processor's cache holds.
	runBlocks = 32
	// prefetchFrom is the size from which a read is announced first, in bytes:
	// several readers of one file at a time, as a sequential reader's read-ahead makes
	// them, defeat the host's own read-ahead, which would then fetch each in many
	// small pieces.
	prefetchFrom = 128 << 10
	// neighbours is how many bytes, aligned, are fetched when a smaller read has to
	// wait for the disk: it takes hardly longer, and who reads at random in a file
	// comes by sooner or later. Disks that are rented allow some 40 KiB for each
	// operation they allow, so who never comes by loses nothing there either.
	neighbours = 32 << 10
	// mostCovered is up to how many bytes of a file that holds: who reads a larger one
	// at random has long stopped before it has come by twice anywhere.
	mostCovered = 1 << 30
)

// runEnd returns the end of the blocks from ptrs[i] on that lie side by side in a
// segment, to be read with one call.
func runEnd(ptrs []located, i int) int {
	j := i + 1
	for j < len(ptrs) && j-i < runBlocks && ptrs[j].seg == ptrs[i].seg && ptrs[j].phys == ptrs[j-1].phys+uint32(ptrs[j-1].blk) {
		j++
	}
	return j
}

func runPages(run []located) int {
	last := &run[len(run)-1]
	return int(last.phys + uint32(last.blk) - run[0].phys)
}

// strides notes where a read of n bytes begins, and reports whether the reads of a
// file come in equal steps with a wide gap between them, which nobody reads.
func (l *dataLock) strides(off int64, n int) bool {
	step := off - l.read.Swap(off)
	return l.step.Swap(step) == step && max(step, -step) > int64(n)+neighbours/2
}

// around is how many bytes, aligned, are fetched of what a read of n bytes has to
// wait for.
func (p *readPlan) around(n int) int64 {
	if n < prefetchFrom && (p.strided || p.mapped > mostCovered/pageSize) {
		return pageSize
	}
	return neighbours
}

// prefetch tells the host of all blocks that will be read, and of what is around them:
// what was written at random lies in pieces, and who reads it one after the other
// comes by all of them.
func (v *Volume) prefetch(ptrs []located, around int64) error {
	type window struct {
		seg *segment
		off int64
	}
	told := make(map[window]bool)
	var first, end window // what is told next
	tell := func() {
		if end.off > first.off {
			first.seg.file.Prefetch(first.off, end.off-first.off)
		}
	}
	for i := 0; i < len(ptrs); {
		j := runEnd(ptrs, i)
		seg, err := v.segments.get(ptrs[i].seg)
		if err != nil {
			return err
		}
		off := int64(ptrs[i].phys) * pageSize
		stop := off + int64(runPages(ptrs[i:j]))*pageSize
		for w := (window{seg, off &^ (around - 1)}); w.off < stop; w.off += around {
			if told[w] {
				continue
			}
			told[w] = true
			if w != end {
				tell()
				first = w
			}
			end = window{seg, w.off + around}
		}
		i = j
	}
	tell()
	return nil
}

// read reads what the segment holds from page phys on, and fetches what is around it
// if it has to wait.
func (seg *segment) read(buf []byte, phys uint32, around int64) error {
	off, size := int64(phys)*pageSize, int64(len(buf))
	switch {
	case size >= prefetchFrom:
		seg.file.Prefetch(off, size)
	case size < around && !seg.file.Cached(off, size):
		from := off &^ (around - 1)
		seg.file.Prefetch(from, max(around, off+size-from))
	}
	return readFull(seg.file, buf, off)
}
