package fs_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lockerMain is a process with a file open, in which it locks and unlocks ranges
// without waiting: "posix|ofd|flock read|write|unlock [START LENGTH]". "close it"
// closes the file.
func lockerMain() {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	types := map[string]int16{"read": unix.F_RDLCK, "write": unix.F_WRLCK, "unlock": unix.F_UNLCK}
	flocks := map[string]int{"read": unix.LOCK_SH, "write": unix.LOCK_EX, "unlock": unix.LOCK_UN}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var kind, what string
		var lk unix.Flock_t
		if n, err := fmt.Sscan(in.Text(), &kind, &what, &lk.Start, &lk.Len); n < 2 {
			panic(err)
		}
		lk.Type = types[what]
		switch kind {
		case "posix":
			err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lk)
		case "ofd":
			err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
		case "flock":
			err = unix.Flock(int(f.Fd()), flocks[what]|unix.LOCK_NB)
		case "close":
			err = f.Close()
		}
		fmt.Println(errnoName(err))
	}
}

func startLocker(t *testing.T, path string) *worker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], path)
	cmd.Env = append(os.Environ(), roleEnv+"=locker")
	w := start(t, cmd)
	t.Cleanup(func() {
		w.in.Close()
		if w.cmd.ProcessState != nil {
			return // the test has waited for its end
		}
		if err := w.cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// testLocksBetween has two processes lock parts of a file in every way.
func testLocksBetween(t *testing.T, dir string) {
	p := dir + "/f"
	must(t, os.WriteFile(p, nil, 0o644))
	one, two := startLocker(t, p), startLocker(t, p)
	say := func(w *worker, line, want string) {
		t.Helper()
		if got := w.ask(t, line); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	for _, kind := range []string{"posix", "ofd"} {
		say(one, kind+" write 0 10", "done")
		say(two, kind+" read 5 10", "EAGAIN")
		say(two, kind+" read 10 10", "done")
		say(one, kind+" read 10 5", "done") // readers share
		say(one, kind+" write 15 5", "EAGAIN")
		say(one, kind+" unlock 3 4", "done") // a hole in the middle
		say(two, kind+" write 3 4", "done")
		say(two, kind+" write 0 3", "EAGAIN")
		say(one, kind+" unlock 0 0", "done")
		say(two, kind+" write 0 0", "done")
		say(two, kind+" unlock 0 0", "done")
	}
	say(one, "posix write 0 10", "done") // POSIX and OFD locks know each other
	say(two, "ofd write 5 10", "EAGAIN")
	say(one, "posix unlock 0 0", "done")
	say(one, "flock read", "done")
	say(two, "flock read", "done")
	say(two, "flock write", "EAGAIN")
	say(one, "flock unlock", "done")
	say(two, "flock write", "done")
	say(one, "flock read", "EAGAIN")
	say(one, "ofd write 0 1", "done") // flock is apart from both
	say(one, "close it", "done")
	say(two, "posix write 0 1", "done")
	two.in.Close() // the end of a process unlocks
	must(t, two.cmd.Wait())
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	must(t, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}))
}

// testChurn lists a directory over and over while entries come and go and are
// renamed: those that are there the whole time are seen exactly once.
func testChurn(t *testing.T, dir string) {
	const stay, churners, lists = 700, 3, 12
	name := func(i int) string { return fmt.Sprintf("%s/stays %d %s", dir, i, strings.Repeat("x", i%180)) }
	for i := range stay {
		must(t, os.WriteFile(name(i), nil, 0o644))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for c := range churners {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				p := fmt.Sprintf("%s/goes %d %d", dir, c, i%200)
				if err := os.WriteFile(p, nil, 0o644); err != nil {
					t.Error(err)
					return
				}
				if i%3 == 0 {
					if err := os.Rename(p, p+" renamed"); err != nil {
						t.Error(err)
						return
					}
					p += " renamed"
				}
				if i%4 != 0 {
					if err := os.Remove(p); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	end := time.Now().Add(hang / 3)
	for range lists {
		if time.Now().After(end) {
			break // a slow machine
		}
		d, err := os.Open(dir)
		must(t, err)
		seen := map[string]int{}
		for {
			names, err := d.Readdirnames(37)
			for _, n := range names {
				seen[n]++
			}
			if err != nil {
				break
			}
		}
		must(t, d.Close())
		for i := range stay {
			n := strings.TrimPrefix(name(i), dir+"/")
			if seen[n] != 1 {
				t.Errorf("%.20q was seen %d times", n, seen[n])
			}
		}
	}
}

// testSparseFar has data near the end of the largest file.
func testSparseFar(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	const largest = 1 << 62
	for _, at := range []int64{largest - 3, largest - 4096 - 2, 1 << 61, 1<<44 + 1, 5} {
		if _, err := f.WriteAt([]byte("abc"), at); err != nil {
			t.Fatalf("at %d: %v", at, err)
		}
	}
	must(t, f.Sync())
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	st := stat(t, f.Name())
	if st.Size != largest || st.Blocks > 8*64 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
	b := make([]byte, 4)
	for _, at := range []int64{largest - 4, largest - 4096 - 3, 1<<61 - 1, 1 << 44, 4} {
		if n, err := f.ReadAt(b, at); n != 4 || string(b) != "\x00abc" {
			t.Errorf("at %d: %q, %v", at, b[:n], err)
		}
	}
	at := int64(0)
	for _, page := range []int64{0, 1 << 44, 1 << 61, largest - 8192, largest - 4096} {
		if at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA); err != nil || at != page {
			t.Fatalf("SEEK_DATA finds %d, want %d: %v", at, page, err)
		}
		at += 4096
		if page != largest-8192 {
			if hole, err := unix.Seek(int(f.Fd()), page, unix.SEEK_HOLE); err != nil || hole != at {
				t.Errorf("SEEK_HOLE finds %d, want %d: %v", hole, at, err)
			}
		}
	}
	// With writeback, only fsync would say so of a write into the cache.
	d, err := os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT, 0)
	must(t, err)
	defer d.Close()
	_, err = d.WriteAt(alignedPage(), largest)
	wantErrno(t, "a write behind the largest file", err, unix.EFBIG)
	wantErrno(t, "a truncation to more", f.Truncate(largest+1), unix.EFBIG)
	must(t, f.Truncate(1<<61+2))
	must(t, f.Truncate(largest))
	if n, err := f.ReadAt(b, 1<<61); n != 4 || string(b) != "ab\x00\x00" {
		t.Errorf("after shrinking and growing: %q, %v", b[:n], err)
	}
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, largest))
	if st := stat(t, f.Name()); st.Blocks != 0 {
		t.Errorf("%d blocks after punching everything", st.Blocks)
	}
}
