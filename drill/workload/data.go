package workload

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	blockFiles  = 6
	blocksEach  = 96 // of a file
	mostBlocks  = 16 // of one write
	appendFiles = 3
	mostAppend  = 12 << 10 // bytes of one write
	mostFile    = 4 << 20  // bytes of an appended file; then it begins anew
)

func blockPlace(file string, n int) string { return fmt.Sprintf("%s#%d", file, n) }

// blocks writes whole blocks at random, syncs, and reads back, half of the time
// what the kernel has to ask for.
func (w *worker) blocks() error {
	name := fmt.Sprintf("f%d", w.rng.IntN(blockFiles))
	f, err := w.file(name)
	if err != nil {
		return err
	}
	n := 1 + w.rng.IntN(mostBlocks)
	from := w.rng.IntN(blocksEach - n)
	switch p := w.rng.IntN(100); {
	case p < 45:
		buf, sets := make([]byte, n*blockSize), make([]set, n)
		for i := range n {
			sets[i] = set{blockPlace(name, from+i), w.generate()}
			fill(buf[i*blockSize:(i+1)*blockSize], w.job.Seed, sets[i].place, sets[i].value)
		}
		lose := w.job.LoseWrite && w.rng.IntN(20) == 0
		return w.ledger.do(func() error {
			return w.call(write, "pwrite", func() error {
				if lose {
					return nil
				}
				_, err := f.WriteAt(buf, int64(from*blockSize))
				return err
			})
		}, sets...)
	case p < 55:
		return w.fsync(name, f)
	default:
		if p < 78 {
			_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		return w.readBlocks(f, name, from, n)
	}
}

func (w *worker) fsync(name string, f *os.File) error {
	return w.ledger.sync(name, func() error {
		return w.call(metadata, "fsync", f.Sync)
	})
}

func (w *worker) readBlocks(f *os.File, name string, from, n int) error {
	buf := make([]byte, n*blockSize)
	var got int
	err := w.call(read, "pread", func() (err error) {
		got, err = f.ReadAt(buf, int64(from*blockSize))
		if err == io.EOF {
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	clear(buf[got:]) // beyond the end is nothing
	for i := range n {
		place := blockPlace(name, from+i)
		if problem := w.ledger.look(w.job.Seed, place, buf[i*blockSize:(i+1)*blockSize]); problem != "" {
			w.wrong("%s", problem)
		}
	}
	return nil
}

// look compares a block with what the ledger allows; "" = it is as it should be.
func (l *ledger) look(seed uint64, place string, b []byte) string {
	c := l.at(place)
	gen, ok := generation(b, seed, place)
	switch {
	case ok && c.allows(place, gen):
		return ""
	case strings.HasPrefix(place, "m") && mixture(b, seed, place, c.allowed()) && !c.certain():
		return ""
	case ok:
		return fmt.Sprintf("%s has generation %d, allowed is %v", place, gen, c.allowed())
	}
	return fmt.Sprintf("%s has data that was never written there", place)
}

// appends adds to files of one stream each, and replaces a file by renaming
// another over it.
func (w *worker) appends() error {
	if w.rng.IntN(6) == 0 {
		return w.replace(fmt.Sprintf("r%d", w.rng.IntN(4)))
	}
	name := fmt.Sprintf("a%d", w.rng.IntN(appendFiles))
	f, err := w.file(name)
	if err != nil {
		return err
	}
	place := name + "#size"
	c := w.ledger.at(place)
	if !c.certain() {
		return w.seeSize(name, f)
	}
	size := int64(c.acked)
	switch p := w.rng.IntN(100); {
	case size > mostFile:
		return w.ledger.do(func() error {
			return w.call(metadata, "ftruncate", func() error { return f.Truncate(0) })
		}, set{place, 0})
	case p < 60:
		to := size + 1 + w.rng.Int64N(mostAppend)
		b := text(w.job.Seed, name, size, to)
		return w.ledger.do(func() error {
			return w.call(write, "append", func() error {
				_, err := f.WriteAt(b, size)
				return err
			})
		}, set{place, uint64(to)})
	case p < 70:
		return w.fsync(name, f)
	case size == 0:
		return nil
	default:
		from := w.rng.Int64N(size)
		to := min(size, from+1+w.rng.Int64N(32<<10))
		b := make([]byte, to-from)
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		if err := w.call(read, "pread", func() error { _, err := f.ReadAt(b, from); return err }); err != nil {
			if err == io.EOF {
				w.wrong("%s ends before byte %d", name, to)
			}
			return err
		}
		if string(b) != string(text(w.job.Seed, name, from, to)) {
			w.wrong("%s has other data between bytes %d and %d", name, from, to)
		}
		return nil
	}
}

// seeSize finds out what became of an append that failed.
func (w *worker) seeSize(name string, f *os.File) error {
	var size int64
	err := w.call(metadata, "fstat", func() error {
		st, err := f.Stat()
		if err == nil {
			size = st.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	place := name + "#size"
	if c := w.ledger.at(place); !c.allows(place, uint64(size)) {
		w.wrong("%s has %d bytes, allowed is %v", name, size, c.allowed())
	}
	w.ledger.noteSets(lineSeen, []set{{place, uint64(size)}})
	return nil
}

// replacedSize is what a file that is replaced as a whole has, in bytes.
const replacedSize = 3000

// replace writes a new file and renames it over the old one, as editors do.
func (w *worker) replace(name string) error {
	gen := w.generate()
	b := make([]byte, replacedSize)
	fill(b, w.job.Seed, name, gen)
	var f *os.File
	if err := w.call(metadata, "create", func() (err error) {
		f, err = os.Create(w.path("new"))
		return err
	}); err != nil {
		return err
	}
	defer f.Close()
	if err := w.call(write, "write", func() error { _, err := f.Write(b); return err }); err != nil {
		return err
	}
	if err := w.call(metadata, "fsync", f.Sync); err != nil {
		return err
	}
	return w.ledger.do(func() error {
		return w.call(metadata, "rename", func() error { return os.Rename(w.path("new"), w.path(name)) })
	}, set{name, gen})
}
