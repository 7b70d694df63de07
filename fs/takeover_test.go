package fs_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"time"

	"cmkfs/fs"
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
		a := fs.StartAnswerer(r.dev, syscall.EKEYREVOKED, slog.Default())
		if _, err := r.dev.InvalidateAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"pread 0", "fstat", "stat " + r.path("f1"), "readdir " + r.dir, "create " + r.path("x")} {
			m.say(t, line, syscall.EKEYREVOKED.Error())
		}
		if late := a.Stop(); len(late) != 0 {
			t.Errorf("%d requests left over", len(late))
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
	a := fs.StartAnswerer(r.dev, syscall.ENOKEY, slog.Default())
	for _, line := range []string{"pread 0", "pread 200000", "pwrite 0 1", "pwritepage 4096", "fstat"} {
		m.say(t, line, syscall.ENOKEY.Error())
	}
	for _, line := range []string{"shared 0", "private 0", "shared 200000", "dirty 0 1"} {
		m.say(t, line, "SIGBUS")
	}
	a.Stop()
	r.startWorker()
	for _, line := range []string{"shared 0", "private 0", "pread 0"} {
		m.say(t, line, want)
	}
	m.say(t, "pwrite 0 9", "ok")
	m.say(t, "fsync", "ok")
}
