package workload

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const mappedBlocks = 64

// mapped is the file that is mapped.
const mapped = "m0"

// mapping changes pages of a shared mapping, syncs them, and reads them.
func (w *worker) mapping() error {
	m, err := w.mapFile()
	if err != nil {
		return err
	}
	n := w.rng.IntN(mappedBlocks)
	page := m[n*blockSize : (n+1)*blockSize]
	place := blockPlace(mapped, n)
	if w.rng.IntN(100) < 40 {
		b := make([]byte, blockSize)
		if err := w.call(read, "mmap load", func() error { copy(b, page); return nil }); err != nil {
			return err
		}
		if problem := w.ledger.look(w.job.Seed, place, b); problem != "" {
			w.wrong("%s", problem)
		}
		return nil
	}
	gen := w.generate()
	b := make([]byte, blockSize)
	fill(b, w.job.Seed, place, gen)
	return w.ledger.do(func() error {
		if err := w.call(write, "mmap store", func() error { copy(page, b); return nil }); err != nil {
			return err
		}
		return w.call(metadata, "msync", func() error { return unix.Msync(page, unix.MS_SYNC) })
	}, set{place, gen})
}

// mapFile returns the mapping, which stays over a suspension.
func (w *worker) mapFile() ([]byte, error) {
	if m := w.mapped; m != nil && w.files[mapped] != nil {
		return m, nil
	}
	if w.mapped != nil {
		_ = unix.Munmap(w.mapped) // of a mount that is gone
		w.mapped = nil
	}
	f, err := w.file(mapped)
	if err != nil {
		return nil, err
	}
	const size = mappedBlocks * blockSize
	if err := w.call(metadata, "ftruncate", func() error {
		st, err := f.Stat()
		if err != nil || st.Size() == size {
			return err
		}
		return f.Truncate(size)
	}); err != nil {
		w.letGo(mapped, f)
		return nil, err
	}
	err = w.call(metadata, "mmap", func() (err error) {
		w.mapped, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return err
	})
	if err != nil {
		w.letGo(mapped, f)
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return w.mapped, nil
}

func (w *worker) letGo(name string, f *os.File) {
	f.Close()
	delete(w.files, name)
}
