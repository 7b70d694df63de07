package fs_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"cmkfs/fs"

	"golang.org/x/sys/unix"
)

func TestServer_Serve_Basics(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	b, err := os.ReadFile(r.path("f3"))
	must(t, err)
	if !bytes.Equal(b, staticData(5)) {
		t.Error("f3 has other data")
	}
	es, err := os.ReadDir(r.dir)
	must(t, err)
	if len(es) != 10 {
		t.Errorf("%d entries, want 10", len(es))
	}
	must(t, os.WriteFile(r.path("new"), []byte("hello"), 0600))
	b, err = os.ReadFile(r.path("new"))
	must(t, err)
	if string(b) != "hello" {
		t.Errorf("new has %q", b)
	}
	must(t, os.Remove(r.path("new")))
	// go-fuse would invent a file of this name.
	_, err = os.Stat(r.path(".go-fuse-epoll-hack"))
	wantErrno(t, "a reserved name", err, syscall.ENOENT)
	wantErrno(t, "making a reserved name", os.WriteFile(r.path(".go-fuse-epoll-hack"), nil, 0644), syscall.EPERM)
	if _, err := os.Stat(r.path("new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of a removed file: %v", err)
	}
}

// Workers are killed under readers; no read fails or returns other data.
func TestServer_TakeOver_KilledWorkers(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	if !r.dev.Resend {
		t.Fatal("kernel without FUSE_NOTIFY_RESEND")
	}
	load := startLoad(t, "read", r.dir)
	for range 20 {
		time.Sleep(20 * time.Millisecond)
		r.kill()
		r.startWorker()
	}
	t.Log(load.stop(t))
}

// While there is no worker everything fails at once, and it works again after.
func TestAnswerer_RefusesAndHandsOver(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	m := startMapper(t, r.path("f0"))
	for range 5 {
		r.kill()
		r.refuse(syscall.EKEYREVOKED)
		if _, err := r.dev.InvalidateAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"pread 0", "fstat", "stat " + r.path("f1"), "readdir " + r.dir, "create " + r.path("x")} {
			m.say(t, line, syscall.EKEYREVOKED.Error())
		}
		r.startWorker()
		m.say(t, "pread 0", "102")
		m.say(t, "stat "+r.path("f1"), "ok")
		m.say(t, "readdir "+r.dir, "ok")
	}
}

func TestServer_Suspend_MappingsAndDescriptors(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	m := startMapper(t, r.path("f0"))
	want := "102" // 'f'
	for _, line := range []string{"shared 0", "private 0", "pread 0"} {
		m.say(t, line, want)
	}
	m.say(t, "dirty 100 7", "ok")
	d := r.suspend(5*time.Second, syscall.ENOKEY)
	if d.Writes == 0 || d.Refused != 0 || d.Overdue != 0 || d.Nodes < 2 {
		t.Errorf("drained %+v", d)
	}
	for _, line := range []string{"pread 0", "pread 200000", "pwrite 0 1", "pwritepage 4096", "fstat"} {
		m.say(t, line, syscall.ENOKEY.Error())
	}
	for _, line := range []string{"shared 0", "private 0", "shared 200000", "dirty 0 1"} {
		m.say(t, line, "SIGBUS")
	}
	r.startWorker()
	for _, line := range []string{"shared 0", "private 0", "pread 0"} {
		m.say(t, line, want)
	}
	m.say(t, "pwrite 0 9", "ok")
	m.say(t, "fsync", "ok")
}

// An unlinked file outlives workers as long as it is open, and its space is
// given back when it is closed, also while there is no worker.
func TestServer_TakeOver_UnlinkedFiles(t *testing.T) {
	for _, closedWithout := range []bool{false, true} {
		dir := realVolume(t)
		r := newRig(t, dir, fs.MountConfig{AllowOther: true})
		must(t, os.WriteFile(r.path("f"), bytes.Repeat([]byte{5}, 100_000), 0644))
		m := startMapper(t, r.path("f"))
		must(t, os.Remove(r.path("f")))
		r.kill()
		r.startWorker()
		m.say(t, "pread 50000", "5")
		m.say(t, "pwrite 0 6", "ok")
		m.say(t, "pread 0", "6")
		if closedWithout {
			r.suspend(5*time.Second, syscall.ENOKEY)
			m.end()
			time.Sleep(50 * time.Millisecond) // FORGET goes without an answer
			r.startWorker()
		} else {
			m.end()
		}
		must(t, os.WriteFile(r.path("g"), nil, 0644)) // it serves
		time.Sleep(50 * time.Millisecond)
		r.exitWorker()
		v, closeVolume, err := openReal(dir, nil, nil)
		must(t, err)
		if left := v.Orphans(); len(left) != 0 {
			t.Errorf("closed without a worker %v: orphans %d", closedWithout, left)
		}
		closeVolume()
	}
}

// The space of a large file comes back, too, which takes more than one
// operation and is left to the background.
func TestServer_Forget_LargeFile(t *testing.T) {
	r := newRig(t, realVolume(t), fs.MountConfig{AllowOther: true})
	f, err := os.Create(r.path("large"))
	must(t, err)
	for i := range 300 { // one block in each of many regions
		_, err := f.WriteAt(bytes.Repeat([]byte{6}, 4096), int64(i)*128<<10)
		must(t, err)
	}
	must(t, f.Close())
	var st unix.Statfs_t
	must(t, unix.Statfs(r.path(""), &st))
	before := st.Files - st.Ffree
	must(t, os.Remove(r.path("large")))
	for range 1000 {
		must(t, unix.Statfs(r.path(""), &st))
		if st.Files-st.Ffree < before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d files, as many as before", before)
}

// Without FUSE_NOTIFY_RESEND the requests a dead worker had are answered, and
// the next worker serves the later ones.
func TestServer_TakeOver_WithoutResend(t *testing.T) {
	r := newRig(t, "mem:block", fs.MountConfig{AllowOther: true})
	m := startMapper(t, r.path("f0"))
	m.send(t, "pread 0")
	time.Sleep(50 * time.Millisecond)
	r.kill()
	r.dev.Resend = false
	r.volume = "mem"
	r.startWorker()
	// EIO, unless the kernel tries once more after a failed read-ahead.
	if got := m.ask(t, ""); got != syscall.EIO.Error() && got != "102" {
		t.Errorf("a request of the dead worker: %q", got)
	}
	m.say(t, "pread 0", "102")

	// The same with nobody to take over.
	r.kill()
	r.volume = "mem:block"
	r.startWorker()
	m.send(t, "pread 100000")
	time.Sleep(50 * time.Millisecond)
	r.kill()
	r.refuse(syscall.ENOKEY)
	if got := m.ask(t, ""); got != syscall.ENOKEY.Error() {
		t.Errorf("a request of the dead worker: %q", got)
	}
}

// A request that the answerer reads although it was told to stop reaches the
// worker.
func TestServer_Handle_ForwardedRequests(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	m := startMapper(t, r.path("f0"))
	m.say(t, "pread 0", "102")
	r.kill()
	m.send(t, "pread 200000")
	buf := make([]byte, 2<<20)
	n, err := unix.Read(int(r.dev.File.Fd()), buf) // as the answerer would
	must(t, err)
	r.dev.Resend = false // the kernel shall not help
	r.startWorker()
	if got := r.worker.ask(t, "handle "+base64.StdEncoding.EncodeToString(buf[:n])); got != "handled" {
		t.Fatal(got)
	}
	if got, want := m.ask(t, ""), itoa(int(staticData(2)[200000])); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// While requests are held they wait, can be killed, and are served afterwards.
func TestAnswerer_Hold(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	m, victim := startMapper(t, r.path("f0")), startMapper(t, r.path("f1"))
	r.suspend(5*time.Second, syscall.ENOKEY)
	m.say(t, "pread 0", syscall.ENOKEY.Error())
	r.answerer.Hold()
	m.send(t, "pread 0")
	victim.send(t, "pread 0")
	time.Sleep(50 * time.Millisecond)
	must(t, victim.cmd.Process.Kill())
	victim.cmd.Wait() // ends, though its request is not answered
	answered := make(chan string, 1)
	go func() { answered <- m.ask(t, "") }()
	select {
	case got := <-answered:
		t.Fatalf("not held: %q", got)
	case <-time.After(100 * time.Millisecond):
	}
	r.startWorker()
	if got := <-answered; got != "102" {
		t.Errorf("served after all: %q", got)
	}
}

// A write(2) that has filled some pages and then stops at one that a waiting
// READ keeps locked has sent no request. What it has filled is taken out of the
// cache all the same, as often as that happens.
func TestAnswerer_Hold_HalfWritten(t *testing.T) {
	r := newRig(t, realVolume(t), fs.MountConfig{AllowOther: true})
	const size, locked = 1 << 20, 40 << 12
	must(t, os.WriteFile(r.path("f"), make([]byte, size), 0o600))
	reader, observer := startMapper(t, r.path("f")), startMapper(t, r.path("f"))
	first, second := startMapper(t, r.path("f")), startMapper(t, r.path("f"))
	first.say(t, "pwriteall 1", "ok") // the next one asks for no privileges that it ends
	r.suspend(5*time.Second, syscall.ENOKEY)
	r.answerer.Hold()
	observer.say(t, "resident", "0")
	reader.send(t, "pread "+itoa(locked))
	time.Sleep(50 * time.Millisecond)
	for _, writer := range []*worker{first, second} { // the second waits for the first
		writer.send(t, "pwriteall 7")
		time.Sleep(300 * time.Millisecond)
		got := ""
		for end := time.Now().Add(20 * time.Second); got != "0" && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			got = observer.ask(t, "resident")
		}
		if got != "0" {
			t.Errorf("%s pages of a write that waits are readable", got)
		}
	}
	r.startWorker()
	for name, w := range map[string]*worker{"reader": reader, "first": first, "second": second} {
		if got := w.ask(t, ""); got != "ok" && (name != "reader" || got != "1" && got != "7") {
			t.Errorf("%s: %q", name, got)
		}
	}
	observer.say(t, "pread 0", "7")
	observer.say(t, "pread "+itoa(size-1), "7")
}
