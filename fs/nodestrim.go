package fs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	pageBytes  = 4096
	pageCounts = pageBytes / 4
	// trimAfter is how many nodes are let go of between two trims.
	trimAfter = chunkCounts
)

// Trim gives back the memory of counts that are all zero. Inode numbers are never
// used twice, so a table that is not trimmed grows with every file that ever was.
// It calls exclusive for each MiB of the table: during the call no reference may
// be added.
func (t *NodeTable) Trim(exclusive func(func() error) error) error {
	fd := int(t.file.Fd())
	for off := int64(countsOff); ; {
		start, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("trim node table: %w", err)
		}
		off = start - (start-countsOff)%chunkBytes + chunkBytes
		if err := exclusive(func() error { return t.trimChunk(start, off) }); err != nil {
			return fmt.Errorf("trim node table: %w", err)
		}
	}
}

// trimChunk punches the pages without a count between two places in one chunk.
func (t *NodeTable) trimChunk(from, to int64) error {
	c, err := t.mapChunk(uint64(from-countsOff) / chunkCounts / 4)
	if err != nil {
		return err
	}
	fd := int(t.file.Fd())
	empty := func(at int64) bool {
		first := (at - countsOff) % chunkBytes / 4
		for _, n := range c[first : first+pageCounts] {
			if n != 0 {
				return false
			}
		}
		return true
	}
	for at := from; at < to; {
		at, err = unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && at >= to {
			return nil
		}
		if err != nil {
			return err
		}
		end := at
		for end < to && empty(end) {
			end += pageBytes
		}
		if end == at {
			at += pageBytes
			continue
		}
		if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, end-at); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// letGo counts the nodes that the kernel holds no longer, and trims the table now
// and then.
func (a *adapter) letGo() {
	if a.gone.Add(1)%trimAfter == 0 {
		go func() {
			if err := a.nodes.Trim(a.exclusive); err != nil {
				_ = a.errs.status("trim", 0, err)
			}
		}()
	}
}

// exclusive runs fn while no reply can give out a reference.
func (a *adapter) exclusive(fn func() error) error {
	for i := range a.stripes {
		a.stripes[i].Lock()
		defer a.stripes[i].Unlock()
	}
	return fn()
}
