package meta

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"cmkfs/crypto"
	"cmkfs/store"
)

// verify authenticates every page that the last complete state of the index
// uses, and calls bad for each that is damaged. It reads the whole file: with
// the pages in the host's cache about 0.7 s per GiB of index on two
// busy processors (BenchmarkIndex_Verify).
//
// If bbolt had got further than the tags, by a transaction that a crash
// interrupted, its meta page is taken back: the pages of the state before are
// all there, since a transaction overwrites none of them.
func (f *tagFile) verify(index store.File, bad func(page uint64)) error {
	tags, err := f.load()
	if err != nil {
		return err
	}
	corrupt := func(err error) error { return &CorruptError{Where: indexName, Err: err} }
	size, err := index.Size()
	if err != nil {
		return err
	}
	var m, other boltMeta
	for i := range uint64(boltMetas) {
		page := make([]byte, pageSize)
		if err := readFull(index, page, int64(i)*pageSize); err != nil {
			return err
		}
		found, ok := parseBoltMeta(page)
		if i != tags.txid%boltMetas {
			if ok {
				other = found
			}
			continue
		}
		if !ok || found.txid != tags.txid {
			return corrupt(fmt.Errorf("page %d is not the meta page of transaction %d, the last in %s", i, tags.txid, tagsName))
		}
		if !f.matches(tags, i, page) {
			return corrupt(fmt.Errorf("page %d: %w", i, crypto.ErrAuth))
		}
		m = found
	}
	if m.pages > uint64(size)/pageSize {
		return corrupt(fmt.Errorf("it is truncated: %d pages of %d", size/pageSize, m.pages))
	}
	run, err := freelistRun(index, m)
	if err != nil {
		return corrupt(err)
	}
	for i := range len(run) / pageSize {
		if id := m.freelist + uint64(i); !f.matches(tags, id, run[i*pageSize:(i+1)*pageSize]) {
			return corrupt(fmt.Errorf("page %d: %w", id, crypto.ErrAuth))
		}
	}
	used, err := usedPages(m, run)
	if err != nil {
		return corrupt(err)
	}
	f.state, f.used = m, used
	if err := f.verifyPages(index, tags, used, bad); err != nil {
		return err
	}
	if other.txid > m.txid {
		_, err = index.WriteAt(make([]byte, pageSize), int64(other.page())*pageSize)
	}
	return err
}

func (f *tagFile) matches(tags *pageTags, id uint64, page []byte) bool {
	want := tags.get(id)
	return subtle.ConstantTimeCompare(f.tagger.Tag(nil, id, page), want[:]) == 1
}

// verifyPages compares the pages with their tags, on every processor.
func (f *tagFile) verifyPages(index io.ReaderAt, tags *pageTags, used pageSet, bad func(page uint64)) error {
	const chunk = 4096 // pages, a multiple of pageSet's word
	var wg sync.WaitGroup
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	work := func() error {
		buf := make([]byte, 64*pageSize)
		var tag [tagSize]byte
		for {
			from := int(next.Add(chunk)) - chunk
			if from/64 >= len(used) {
				return nil
			}
			words := used[from/64 : min((from+chunk)/64, len(used))]
			err := words.runs(nil, 64, func(first uint64, n int) error {
				first += uint64(from)
				if _, err := index.ReadAt(buf[:n*pageSize], int64(first)*pageSize); err != nil {
					return err
				}
				for i := range n {
					id := first + uint64(i)
					want := tags.get(id)
					if subtle.ConstantTimeCompare(f.tagger.Tag(tag[:0], id, buf[i*pageSize:(i+1)*pageSize]), want[:]) != 1 {
						mu.Lock()
						bad(id)
						mu.Unlock()
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			if err := work(); err != nil {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}
