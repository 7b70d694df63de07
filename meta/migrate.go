package meta

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"cmkfs/store"
)

const (
	// migrateBatch is how many pages of one file one operation migrates at most.
	migrateBatch = 256
	// migrateFiles is after how many files the queued operations are written.
	migrateFiles = 64
)

// migrate moves the small data of files larger than smallFile into segments,
// neighbours side by side, as ordinary journalled operations: recovery needs to
// know nothing about it. Pages written while it runs wait for the next one.
func (v *Volume) migrate() error {
	v.mu.Lock()
	todo := v.inline
	v.inline = make(map[uint64]struct{})
	v.mu.Unlock()
	var failed error
	// In the order of their numbers, so that files made together lie together.
	for i, ino := range slices.Sorted(maps.Keys(todo)) {
		if failed == nil {
			failed = v.migrateFile(ino)
		}
		if failed == nil && i%migrateFiles == migrateFiles-1 {
			failed = v.written(v.lastSeq())
			v.wakeWaiters() // what is in a segment takes no memory any more
		}
		if failed != nil {
			v.mu.Lock()
			v.inline[ino] = struct{}{}
			v.mu.Unlock()
		}
	}
	return failed
}

// migrateFile migrates the small data of a file, some of it at a time, so that who
// writes to the file does not wait for all.
func (v *Volume) migrateFile(ino uint64) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for from := uint64(0); ; {
		next, err := v.migrateSome((*buf)[:0], ino, from)
		if err != nil || next == from {
			return err
		}
		from = next
	}
}

// migrateSome migrates small data of a file from a page on, and returns where to
// go on, from itself if there is no more.
func (v *Volume) migrateSome(room []byte, ino, from uint64) (next uint64, err error) {
	lock := v.dataLock(ino)
	lock.Lock()
	defer lock.Unlock()
	pages, data, err := v.smallData(room, ino, from)
	if err != nil || len(pages) == 0 {
		return from, err
	}
	return pages[len(pages)-1] + 1, v.migratePages(ino, pages, data)
}

// smallData collects small data of a file from a page on, padded to pages, in
// room; none if the file is gone or stays in the index.
func (v *Volume) smallData(room []byte, ino, from uint64) (pages []uint64, data []byte, err error) {
	data = room
	err = v.view(func() error {
		n, err := v.inodeOf(ino)
		if errors.Is(err, ErrStale) {
			return nil
		}
		if err != nil || n.size <= smallFile || n.inline == 0 {
			return err
		}
		add := func(page uint64, val []byte) {
			pages = append(pages, page)
			data = append(data, val...)
			data = zeroPad(data, len(pages)*pageSize)
		}
		if n.size <= pageSize { // as most have, so that no search is needed
			if from > 0 {
				return nil
			}
			val, err := v.get(key{tablePage, ino, 0})
			if val != nil {
				add(0, val)
			}
			return err
		}
		return v.scan(key{tablePage, ino, from}, func(k key, val []byte) bool {
			add(k.b, val)
			return len(pages) < migrateBatch
		})
	})
	return pages, data, err
}

func (v *Volume) migratePages(ino uint64, pages []uint64, data []byte) error {
	places, err := v.segments.writeBlocks(data, func(i int) int {
		// A block ends at a gap in the file and at a region's boundary.
		n := 1
		for i+n < len(pages) && pages[i+n] == pages[i]+uint64(n) && pages[i+n]%regionPages != 0 {
			n++
		}
		return n
	})
	if err != nil {
		return hostError(err)
	}
	_, _, _, err = v.updateQueued(Caller{}, func(t *tx) error {
		n, err := t.inode(ino)
		if err != nil {
			return err
		}
		for i := range places {
			p := &places[i]
			page := pages[p.page]
			at := int(page % regionPages)
			t.alloc = append(t.alloc, p.block)
			if err := t.remap(n, page/regionPages, at, at+int(p.block.blk), []pointer{p.pointer(at)}); err != nil {
				return err
			}
		}
		t.putInode(n)
		return nil
	})
	v.finish(places, err == nil)
	if err != nil {
		return fmt.Errorf("inode %d: %w", ino, err)
	}
	return nil
}

// hostError turns a full host into ErrNoSpace.
func hostError(err error) error {
	if errors.Is(err, store.ErrFull) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
