package fs_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	errors.As(err, &e)
	return e
}

// loadMain is a process that works on a mount and verifies what it reads, until
// its input ends. It is a process of its own because one that starts workers
// must have nothing open on the mount: its children would wait, at exec, for
// the workers they are about to become.
func loadMain() {
	dir := os.Args[2]
	work := map[string]func(dir string, id int, stop *atomic.Bool, ops *atomic.Int64) error{
		"read": loadRead, "write": loadWrite, "names": loadNames, "append": loadAppend, "hammer": loadHammer, "fsx": loadFsx,
	}
	var stop atomic.Bool
	var ops atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for id := range 4 {
		for _, kind := range strings.Split(os.Args[1], ",") {
			wg.Go(func() {
				if err := work[kind](dir, id, &stop, &ops); err != nil {
					errs <- fmt.Errorf("%s: %w", kind, err)
				}
			})
		}
	}
	fmt.Println("started")
	bufio.NewScanner(os.Stdin).Scan()
	stop.Store(true)
	wg.Wait()
	if len(errs) > 0 {
		fmt.Println("failed:", <-errs)
		return
	}
	fmt.Println("ok", ops.Load(), "operations")
}

type load struct{ *worker }

func startLoad(t *testing.T, kinds, dir string) load {
	t.Helper()
	cmd := exec.Command(os.Args[0], kinds, dir)
	cmd.Env = append(os.Environ(), roleEnv+"=load")
	w := start(t, cmd)
	w.expect(t, "started")
	return load{w}
}

// stop ends the load and returns what it says it did.
func (l load) stop(t *testing.T) string {
	t.Helper()
	l.in.Close()
	answer := l.ask(t, "")
	l.cmd.Wait()
	if !strings.HasPrefix(answer, "ok") {
		t.Error(answer)
	}
	return answer
}

// loadRead reads the static files past the page cache.
func loadRead(dir string, id int, stop *atomic.Bool, ops *atomic.Int64) error {
	buf := make([]byte, 1<<20)
	for !stop.Load() {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("f%d", id)), os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		n := 0
		for n < staticSize {
			m, err := f.ReadAt(buf[n:min(n+65536, len(buf))], int64(n))
			if m == 0 {
				return fmt.Errorf("read at %d: %w", n, err)
			}
			n += m
			ops.Add(1)
		}
		f.Close()
		if !bytes.Equal(buf[:n], staticData(uint64(2+id))) {
			return errors.New("other data")
		}
	}
	return nil
}

// again does something until it is not refused: while the volume is suspended
// everything is, and nothing that is refused may have been done.
func again(step func() error) error {
	for {
		err := step()
		if errnoOf(err) != syscall.ENOKEY {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// writeAll is WriteAt, again and again.
func writeAll(f *os.File, b []byte, off int64) error {
	return again(func() error { _, err := f.WriteAt(b, off); return err })
}

// loadWrite overwrites a file at random and verifies it against a copy.
func loadWrite(dir string, id int, stop *atomic.Bool, ops *atomic.Int64) error {
	var f *os.File
	err := again(func() (err error) {
		f, err = os.OpenFile(filepath.Join(dir, fmt.Sprintf("w%d", id)), os.O_RDWR|os.O_CREATE, 0644)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	rng := rand.New(rand.NewSource(int64(id)))
	want := make([]byte, 1<<20)
	if err := writeAll(f, want, 0); err != nil {
		return err
	}
	got := make([]byte, len(want))
	for i := 0; !stop.Load(); i++ {
		off := rng.Intn(len(want) - 1)
		n := 1 + rng.Intn(min(20000, len(want)-off))
		rng.Read(want[off : off+n])
		if err := writeAll(f, want[off:off+n], int64(off)); err != nil {
			return err
		}
		ops.Add(1)
		if i%16 == 0 {
			if err := again(func() error { _, err := f.ReadAt(got, 0); return err }); err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return errors.New("other data than written")
			}
		}
		if i%64 == 0 {
			if err := again(f.Sync); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadNames makes, links, renames and removes names. None of these may be
// applied twice: the second time would fail.
func loadNames(dir string, id int, stop *atomic.Bool, ops *atomic.Int64) error {
	base := filepath.Join(dir, fmt.Sprintf("d%d", id))
	if err := again(func() error { return os.Mkdir(base, 0755) }); err != nil {
		return err
	}
	for i := 0; !stop.Load(); i++ {
		name := func(s string) string { return filepath.Join(base, fmt.Sprintf("%s%d", s, i)) }
		for i, step := range []func() error{
			// Not open(2), which asks for the attributes of what it has made.
			func() error { return unix.Mknod(name("a"), unix.S_IFREG|0600, 0) },
			func() error { return os.Link(name("a"), name("b")) },
			func() error { return unix.Renameat2(-1, name("b"), -1, name("c"), unix.RENAME_NOREPLACE) },
			func() error { return os.Symlink("x", name("s")) },
			func() error { return os.Mkdir(name("m"), 0700) },
			func() error { return unix.Rename(name("m"), name("n")) },
			func() error { return unix.Rmdir(name("n")) },
			func() error { return unix.Unlink(name("a")) },
			func() error { return unix.Unlink(name("s")) },
			func() error { return unix.Unlink(name("c")) },
		} {
			if err := again(step); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
			ops.Add(1)
		}
	}
	return nil
}

// loadAppend appends numbered lines; none may be lost or be there twice.
func loadAppend(dir string, id int, stop *atomic.Bool, ops *atomic.Int64) error {
	path := filepath.Join(dir, fmt.Sprintf("log%d", id))
	var f *os.File
	err := again(func() (err error) {
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0644)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	lines := 0
	for ; !stop.Load(); lines++ {
		// The kernel may send a write in two parts, at a page's end, of which the
		// second is refused: write(2) says then how much it wrote.
		line := fmt.Appendf(nil, "line %8d\n", lines)
		err := again(func() error {
			n, err := f.Write(line)
			line = line[n:]
			return err
		})
		if err != nil {
			return err
		}
		ops.Add(1)
		if lines > 20_000 { // enough to look through afterwards
			time.Sleep(time.Millisecond)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(b) != 14*lines {
		return fmt.Errorf("%d bytes for %d lines", len(b), lines)
	}
	for i := range lines {
		if got, want := string(b[14*i:14*i+14]), fmt.Sprintf("line %8d\n", i); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
	}
	return nil
}

// refusedAtClose reports whether data that was still in the kernel's cache when the
// volume was suspended was refused: whatever the errno, close says EIO.
func refusedAtClose(err error) bool {
	var path *os.PathError
	return errors.As(err, &path) && path.Op == "close" && path.Err == syscall.EIO
}

// loadHammer works until it is stopped, which is when everything is refused,
// and then checks that it really is.
func loadHammer(dir string, id int, stop *atomic.Bool, ops *atomic.Int64) error {
	path := filepath.Join(dir, fmt.Sprintf("h%d", id))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0644)
	if errnoOf(err) == syscall.ENOKEY {
		return nil // a busy machine: it was suspended already
	}
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 50_000)
	round := func(check func(what string, err error) error) error {
		_, err := f.WriteAt(buf, ops.Add(1)%50*1000)
		if err := check("pwrite", err); err != nil {
			return err
		}
		if _, err = f.ReadAt(buf, 0); err == io.EOF {
			err = nil
		}
		if err := check("pread", err); err != nil {
			return err
		}
		_, err = f.Stat()
		if err := check("fstat", err); err != nil {
			return err
		}
		_, err = os.ReadDir(dir)
		if err := check("readdir", err); err != nil {
			return err
		}
		return check("create", os.WriteFile(path+".x", buf[:100], 0600))
	}
	refused := false
	for !stop.Load() {
		err := round(func(what string, err error) error {
			switch {
			case errnoOf(err) == syscall.ENOKEY, refusedAtClose(err):
				refused = true
			case err != nil:
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if refused {
			time.Sleep(time.Millisecond)
		}
	}
	for range 3 {
		err := round(func(what string, err error) error {
			if errnoOf(err) != syscall.ENOKEY {
				return fmt.Errorf("suspended, but %s: %v", what, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
