package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const fsxMax = 400_000 // bytes of the file, at most

// fsx is one file that is changed at random in every way a file can be, and
// compared with a copy in memory all the time.
type fsx struct {
	f, direct *os.File
	want      []byte
	rng       *rand.Rand
	page      []byte // aligned, fsxMax long
	log       []string
}

// loadFsx does that, in a process that other people's page faults do not need.
func loadFsx(dir string, id int, stop *atomic.Bool, ops *atomic.Int64) error {
	path := filepath.Join(dir, fmt.Sprintf("fsx%d", id))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0644)
	if err != nil {
		return err
	}
	defer f.Close()
	direct, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer direct.Close()
	page, err := unix.Mmap(-1, 0, (fsxMax+8191)&^4095, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	x := &fsx{f: f, direct: direct, rng: rand.New(rand.NewSource(int64(id))), page: page}
	for i := 0; !stop.Load(); i++ {
		what, err := x.step()
		x.log = append(x.log[max(0, len(x.log)-12):], what)
		if err == nil && i%10 == 0 {
			err = x.compare()
		}
		if err != nil {
			return fmt.Errorf("step %d: %w; last steps: %q", i, err, x.log)
		}
		ops.Add(1)
	}
	return x.compare()
}

// compare reads the whole file.
func (x *fsx) compare() error {
	got, err := os.ReadFile(x.f.Name())
	if err != nil {
		return err
	}
	return x.same(got, 0)
}

// same compares a piece that was read with the copy.
func (x *fsx) same(got []byte, off int) error {
	want := x.want[min(off, len(x.want)):]
	if off+len(got) < len(x.want) {
		want = want[:len(got)]
	}
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("at %d: %d, want %d", off+i, got[i], want[i])
		}
	}
	return fmt.Errorf("%d bytes at %d, want %d", len(got), off, len(want))
}

func (x *fsx) grow(size int) {
	if size > len(x.want) {
		x.want = append(x.want, make([]byte, size-len(x.want))...)
	}
}

// step does one thing and says what.
func (x *fsx) step() (what string, err error) {
	fd := int(x.f.Fd())
	off := x.rng.Intn(fsxMax - 1)
	n := 1 + x.rng.Intn(min(fsxMax-off, 1<<(1+x.rng.Intn(17))))
	size := len(x.want)
	kind := x.rng.Intn(14)
	what = fmt.Sprintf("%d: %d+%d of %d", kind, off, n, size)
	switch kind {
	case 0, 1, 2: // write
		data := x.page[:n]
		x.rng.Read(data)
		if _, err = x.f.WriteAt(data, int64(off)); err == nil {
			x.grow(off + n)
			copy(x.want[off:], data)
		}
	case 3: // append
		n = min(n, fsxMax-size)
		data := x.page[:n]
		x.rng.Read(data)
		if _, err = x.f.WriteAt(data, int64(size)); err == nil {
			x.want = append(x.want, data...)
		}
	case 4: // truncate
		if err = x.f.Truncate(int64(off)); err == nil {
			x.grow(off)
			x.want = x.want[:off:off]
		}
	case 5: // read
		m, _ := x.f.ReadAt(x.page[:n], int64(off))
		err = x.same(x.page[:m], off)
	case 6: // write past the cache
		off, n = off&^4095, min(n+4095, fsxMax-off&^4095)&^4095
		x.rng.Read(x.page[:n])
		if _, err = x.direct.WriteAt(x.page[:n], int64(off)); err == nil && n > 0 {
			x.grow(off + n)
			copy(x.want[off:], x.page[:n])
		}
	case 7: // read past the cache
		off, n = off&^4095, (n+4095)&^4095
		m, _ := x.direct.ReadAt(x.page[:n], int64(off))
		err = x.same(x.page[:m], off)
	case 8: // write through a mapping
		err = x.mapped(off, n, func(m []byte) error {
			x.rng.Read(m)
			copy(x.want[off:], m)
			return nil
		})
	case 9: // read through a mapping
		err = x.mapped(off, n, func(m []byte) error { return x.same(m, off) })
	case 10: // punch a hole
		if err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)); err == nil && off < size {
			clear(x.want[off:min(off+n, size)])
		}
	case 11: // zero
		if err = unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, int64(off), int64(n)); err == nil {
			x.grow(off + n)
			clear(x.want[off : off+n])
		}
	case 12: // copy within the file
		from, to := int64(x.rng.Intn(fsxMax-1)), int64(off)
		n = min(n, max(0, size-int(from)))
		if n > 0 && (from+int64(n) <= to || to+int64(n) <= from) {
			in, m := from, 0
			if m, err = unix.CopyFileRange(fd, &in, fd, &to, n, 0); err == nil {
				x.grow(off + m)
				copy(x.want[off:off+m], x.want[from:])
			}
		}
	case 13:
		err = x.f.Sync()
	}
	return what, err
}

// mapped maps the part of the range that the file has.
func (x *fsx) mapped(off, n int, use func(m []byte) error) error {
	n = min(n, len(x.want)-off)
	if n <= 0 {
		return nil
	}
	start := off &^ 4095
	m, err := unix.Mmap(int(x.f.Fd()), int64(start), off+n-start, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	err = use(m[off-start:])
	return errors.Join(err, unix.Munmap(m))
}

// TestFsx changes files in every way, while workers die and without.
func TestFsx(t *testing.T) {
	for _, mode := range modes {
		for _, kills := range []int{0, 10} {
			t.Run(fmt.Sprintf("%s/%d kills", mode.name, kills), func(t *testing.T) {
				r := newRig(t, realVolume(t), mode.cfg)
				l := startLoad(t, "fsx", r.dir)
				time.Sleep(300 * time.Millisecond)
				for range kills {
					time.Sleep(50 * time.Millisecond)
					r.kill()
					r.startWorker()
				}
				t.Log(l.stop(t))
			})
		}
	}
	t.Run("control", func(t *testing.T) {
		l := startLoad(t, "fsx", t.TempDir())
		time.Sleep(300 * time.Millisecond)
		t.Log(l.stop(t))
	})
}
