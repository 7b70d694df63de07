package supervisor_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/internal/loadtest"
	"cmkfs/supervisor/api"
)

// newBlockRig is a rig whose requests wait while the volume is suspended.
func newBlockRig(t *testing.T, options ...string) *rig {
	t.Helper()
	r := newRig(t, options...)
	if _, err := r.UpdateAccount(r.ctx, "acct", api.UpdateAccount{Policy: &account.PolicyChange{OnSuspend: account.OnSuspendBlock}}); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBlock_ProgramsOnlyWait: whatever programs do when access is taken away and
// given back, again and again, waits and goes on as if nothing had been; and what
// waits keeps nothing readable in the kernel's cache.
func TestBlock_ProgramsOnlyWait(t *testing.T) {
	t.Run("write-through", func(t *testing.T) { programsOnlyWait(t, 15) })
	t.Run("writeback", func(t *testing.T) { programsOnlyWait(t, 8, "writeback") })
}

func programsOnlyWait(t *testing.T, cycles int, options ...string) {
	r := newBlockRig(t, options...)
	const size = 8 << 20
	content := make([]byte, size)
	if err := os.WriteFile(r.path("hammered"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(r.path("hammered"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapping, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapping)
	if readable(t, mapping) == 0 {
		t.Fatal("nothing is cached: the test would see nothing")
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			buf := make([]byte, 256<<10)
			for ctx.Err() == nil {
				at := rand.N(int64(size - len(buf)))
				_ = unix.Fadvise(int(f.Fd()), at, int64(len(buf)), unix.FADV_DONTNEED)
				_, err := f.ReadAt(buf, at)
				if i == 0 && err == nil {
					_, err = f.WriteAt(buf, at)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	held := 0
	report := loadtest.Measure(t, r.mount, func() {
		for n := range cycles {
			v, err := r.SuspendVolume(r.ctx, "acct", "vol")
			if err != nil || v.State != api.VolumeSuspended {
				t.Fatalf("%+v %v", v, err)
			}
			// What a program writes now is in the cache until its request is seen.
			pages := readable(t, mapping)
			for i := 0; pages > 0 && i < 100; i++ {
				time.Sleep(10 * time.Millisecond)
				pages = readable(t, mapping)
			}
			if pages > 0 {
				t.Errorf("cycle %d: %d pages are readable", n, pages)
			}
			waiting, _ := strconv.Atoi(r.lastEvent(account.AuditVolOffline).Detail["held"])
			held += waiting
			time.Sleep(rand.N(30 * time.Millisecond))
			if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(rand.N(50 * time.Millisecond))
		}
	})
	stop()
	load.Wait()
	if report.Failed != nil {
		t.Error(report.Failed)
	}
	if held == 0 {
		t.Error("nothing was under way when access was taken away: the test has seen nothing")
	}
	t.Log(report, held)
}

// readable returns how many pages of a mapping could be read without asking
// anybody.
func readable(t *testing.T, mapping []byte) (n int) {
	t.Helper()
	pages := make([]byte, len(mapping)/4096)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapping[0])), uintptr(len(mapping)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}

// waitForFile opens a file, tells of every signal that ends the wait, and prints
// what came of it.
func waitForFile(path string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	runtime.LockOSThread() // signals are for the thread that waits
	fmt.Println(unix.Gettid())
	for {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if !errors.Is(err, unix.EINTR) {
			fmt.Println("opened", fd > 0, err)
			return
		}
		select {
		case <-signals:
			fmt.Println("interrupted")
		default: // by one of the Go runtime's own
		}
	}
}

// TestBlock_Signals: a program that waits learns of its signals, can be killed,
// and goes on when access is restored.
func TestBlock_Signals(t *testing.T) {
	r := newBlockRig(t)
	if err := os.WriteFile(r.path("file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
		t.Fatal(err)
	}
	begin := func() (cmd *exec.Cmd, thread int, lines *bufio.Scanner) {
		cmd = exec.Command("/proc/self/exe", "wait", r.path("file"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines = bufio.NewScanner(out)
		lines.Scan()
		if thread, err = strconv.Atoi(lines.Text()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		return cmd, thread, lines
	}
	interrupted, thread, lines := begin()
	killed, _, _ := begin()
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // ends, though nobody restores
	said := make(chan string)
	go func() {
		for lines.Scan() {
			said <- lines.Text()
		}
		close(said)
	}()
	for got := ""; got != "interrupted"; {
		// Repeated: the first may come before it waits.
		if err := unix.Tgkill(interrupted.Process.Pid, thread, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		select {
		case got = <-said:
			if got != "interrupted" {
				t.Fatalf("the program says %q", got)
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
		t.Fatal(err)
	}
	last := ""
	for line := range said {
		last = line
	}
	if err := interrupted.Wait(); err != nil || last != "opened true <nil>" {
		t.Errorf("at the end: %q %v", last, err)
	}
}
