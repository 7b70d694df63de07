package worker_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/worker"
)

// TestMain lets the test binary be a worker, and a probe that is confined like
// one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "worker":
			worker.Main()
		case "probe":
			probe()
		}
	}
	os.Exit(m.Run())
}

// probe tries what a worker must not be able to do, and prints what happened.
func probe() {
	dir := strings.TrimPrefix(os.Args[2], "--dir=")
	if !slices.Contains(os.Args, worker.ArgStage2) {
		fmt.Fprintln(os.Stderr, worker.Stage1(dir))
		os.Exit(1)
	}
	if err := worker.EnterStage2(false); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	results := map[string]string{}
	try := func(what string, err error) {
		var errno syscall.Errno
		switch {
		case err == nil:
			results[what] = "ok"
		case errors.As(err, &errno):
			results[what] = unix.ErrnoName(errno)
		default:
			results[what] = err.Error()
		}
	}
	_, err := os.ReadFile("/etc/passwd")
	try("read /etc/passwd", err)
	_, err = os.ReadDir("/")
	try("list /", err)
	try("write /tmp", os.WriteFile(filepath.Join(filepath.Dir(dir), "outside"), nil, 0o600))
	inside := filepath.Join(dir, "journal")
	try("mkdir", os.Mkdir(inside, 0o700))
	try("write", os.WriteFile(filepath.Join(inside, "x"), []byte("x"), 0o600))
	try("rename", os.Rename(filepath.Join(inside, "x"), filepath.Join(dir, "y")))
	_, err = os.ReadFile(filepath.Join(dir, "y"))
	try("read", err)
	try("remove", os.Remove(filepath.Join(dir, "y")))
	try("symlink", os.Symlink("/etc", filepath.Join(dir, "z")))
	for family, name := range map[int]string{unix.AF_INET: "socket inet", unix.AF_NETLINK: "socket netlink", unix.AF_UNIX: "socket unix"} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
		if err == nil {
			unix.Close(fd)
		}
		try(name, err)
	}
	try("exec", exec.Command("/proc/self/exe", "probe").Run())
	try("ptrace", unix.PtraceAttach(os.Getppid()))
	try("kill", unix.Kill(os.Getppid(), 0))
	try("mount", unix.Mount("x", dir, "tmpfs", 0, ""))
	try("chown", os.Chown(dir, 1, 1))
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	try("dumpable", errors.Join(err, map[bool]error{true: errors.New("yes")}[dumpable != 0]))
	// Every thread, not only this one.
	done := make(chan error)
	for range 10 {
		go func() {
			_, err := os.ReadFile("/etc/passwd")
			done <- err
		}()
	}
	for range 10 {
		if err := <-done; err == nil {
			results["read /etc/passwd"] = "ok in another thread"
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(results)
	os.Exit(0)
}

func TestConfinement_WhatIsLeft(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "probe", "--dir="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"read /etc/passwd": "EACCES", "list /": "EACCES", "write /tmp": "EACCES",
		"mkdir": "ok", "write": "ok", "rename": "ok", "read": "ok", "remove": "ok", "symlink": "EACCES",
		"socket inet": "EPERM", "socket netlink": "EPERM", "socket unix": "ok",
		"ptrace": "EPERM", "kill": "EPERM", "mount": "EPERM", "chown": "EPERM", "dumpable": "ok",
	}
	for what, result := range want {
		if got[what] != result {
			t.Errorf("%s: %s, want %s", what, got[what], result)
		}
	}
	if got["exec"] == "ok" {
		t.Error("a program was executed")
	}
}

// started is a worker of the test's own.
type started struct {
	conn *worker.Conn
	key  *os.File
	cmd  *exec.Cmd
}

func start(t *testing.T, s worker.Start) *started {
	t.Helper()
	conn, far, err := worker.Pair()
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &started{conn: conn, key: os.NewFile(uintptr(fds[0]), "key")}
	keyFar := os.NewFile(uintptr(fds[1]), "key")
	w.cmd = exec.Command("/proc/self/exe", append([]string{"worker"}, worker.Args(s.Dir)...)...)
	w.cmd.ExtraFiles = []*os.File{far, keyFar}
	w.cmd.Stderr = os.Stderr
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	keyFar.Close()
	t.Cleanup(func() { w.cmd.Process.Kill(); conn.Close(); w.key.Close() })
	if err := conn.Send(worker.Request{Start: &s}); err != nil {
		t.Fatal(err)
	}
	return w
}

// receive reads one message, io.EOF at the worker's end.
func (w *started) receive(t *testing.T) (worker.Reply, error) {
	t.Helper()
	var r worker.Reply
	_, err := w.conn.Receive(&r)
	for err == nil && r.Position != nil { // comes at any time
		r = worker.Reply{}
		_, err = w.conn.Receive(&r)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return r, err
}

func (w *started) exitCode(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { w.cmd.Process.Kill() })
	defer timer.Stop()
	_ = w.cmd.Wait()
	return w.cmd.ProcessState.ExitCode()
}

// format makes a volume and returns its key.
func format(t *testing.T, dir string) (crypto.Key, worker.Sealed) {
	t.Helper()
	key := crypto.NewKey()
	sealed := worker.Sealed{AEKID: "aek", VEK: []byte("sealed"), Quota: 1 << 30}
	rand.Read(sealed.VolumeID[:])
	sealed.Commitment = crypto.Commit(key, sealed.VolumeID[:])
	w := start(t, worker.Start{Mode: worker.ModeFormat, Dir: dir, Label: "a/v",
		Format: &worker.Format{Sealed: sealed, JournalBytes: 1 << 20}})
	if _, err := w.key.Write(key[:]); err != nil {
		t.Fatal(err)
	}
	if r, _ := w.receive(t); r.Done == nil {
		t.Fatalf("format: %+v", r.Failed)
	}
	if code := w.exitCode(t); code != worker.ExitOK {
		t.Fatalf("format: exit code %d", code)
	}
	return key, sealed
}

func TestWorker_FormatThenCheck(t *testing.T) {
	dir := t.TempDir()
	key, sealed := format(t, dir)
	w := start(t, worker.Start{Mode: worker.ModeCheck, Dir: dir, Label: "a/v", Check: &worker.Check{Scrub: true}})
	r, _ := w.receive(t)
	if r.Sealed == nil || r.Sealed.VolumeID != sealed.VolumeID || r.Sealed.AEKID != "aek" || string(r.Sealed.VEK) != "sealed" {
		t.Fatalf("superblock: %+v", r)
	}
	if _, err := w.key.Write(key[:]); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := w.receive(t)
		if err != nil || r.Finding != nil || r.Failed != nil {
			t.Fatalf("check: %+v %v", r, err)
		}
		if r.Done != nil {
			if r.Done.Findings != 0 {
				t.Errorf("%d findings in a new volume", r.Done.Findings)
			}
			break
		}
	}
}

func TestWorker_Refusals(t *testing.T) {
	dir := t.TempDir()
	key, sealed := format(t, dir)
	lease := &worker.Lease{Deadline: worker.In(time.Minute)}
	other := crypto.NewKey()
	for name, c := range map[string]struct {
		start worker.Start
		key   []byte // nil = the socket is closed without a key
		class worker.Class
	}{
		"wrong key":    {worker.Start{Mode: worker.ModeServe, Dir: dir, Lease: lease}, other[:], worker.ClassKey},
		"no key":       {worker.Start{Mode: worker.ModeServe, Dir: dir, Lease: lease}, nil, worker.ClassKey},
		"half a key":   {worker.Start{Mode: worker.ModeServe, Dir: dir, Lease: lease}, key[:16], worker.ClassKey},
		"no volume":    {worker.Start{Mode: worker.ModeServe, Dir: t.TempDir(), Lease: lease}, nil, worker.ClassCorrupt},
		"formatted":    {worker.Start{Mode: worker.ModeFormat, Dir: dir, Format: &worker.Format{Sealed: sealed}}, key[:], worker.ClassOther},
		"no mode":      {worker.Start{Mode: "x", Dir: dir}, nil, worker.ClassOther},
		"no directory": {worker.Start{Mode: worker.ModeServe, Dir: dir + "/missing", Lease: lease}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, c.start)
			if c.key != nil {
				_, _ = w.key.Write(c.key)
			}
			w.key.Close()
			var failed *worker.Failed
			for failed == nil {
				r, err := w.receive(t)
				if err != nil {
					break
				}
				failed = r.Failed
			}
			if code := w.exitCode(t); code != worker.ExitFailed {
				t.Errorf("exit code %d", code)
			}
			if c.class == "" {
				return // it could not even confine itself
			}
			if failed == nil || failed.Class != c.class || failed.Reason == "" {
				t.Fatalf("%+v", failed)
			}
			if bytes.Contains([]byte(failed.Reason), key[:8]) {
				t.Error("key bytes in an error")
			}
		})
	}
}

// TestWorker_Locked: a volume is open in one process only.
func TestWorker_Locked(t *testing.T) {
	dir := t.TempDir()
	key, _ := format(t, dir)
	serve := worker.Start{Mode: worker.ModeServe, Dir: dir, Label: "a/v", Lease: &worker.Lease{Deadline: worker.In(time.Minute)}}
	first, second := start(t, serve), start(t, serve)
	for _, w := range []*started{first, second} {
		if r, _ := w.receive(t); r.Sealed == nil {
			t.Fatalf("%+v", r)
		}
	}
	if _, err := first.key.Write(key[:]); err != nil {
		t.Fatal(err)
	}
	if r, _ := first.receive(t); r.Ready == nil {
		t.Fatalf("%+v", r)
	}
	if _, err := second.key.Write(key[:]); err != nil {
		t.Fatal(err)
	}
	if r, _ := second.receive(t); r.Failed == nil || r.Failed.Class != worker.ClassLocked {
		t.Fatalf("%+v", r)
	}
	if err := first.conn.Send(worker.Request{Stats: &worker.Ask{}}); err != nil {
		t.Fatal(err)
	}
	if r, _ := first.receive(t); r.Stats == nil || r.Stats.QuotaBytes != 1<<30 {
		t.Fatalf("stats: %+v", r)
	}
}

// TestWorker_EndsAlone without its supervisor, or when its lease has run out.
func TestWorker_EndsAlone(t *testing.T) {
	dir := t.TempDir()
	key, _ := format(t, dir)
	for name, end := range map[string]func(*started){
		"supervisor gone": func(w *started) { w.conn.Close() },
		"lease over": func(w *started) {
			_ = w.conn.Send(worker.Request{Lease: &worker.Lease{Deadline: worker.In(50 * time.Millisecond)}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, worker.Start{Mode: worker.ModeServe, Dir: dir, Label: "a/v", Lease: &worker.Lease{Deadline: worker.In(time.Minute)}})
			if r, _ := w.receive(t); r.Sealed == nil {
				t.Fatalf("%+v", r)
			}
			if _, err := w.key.Write(key[:]); err != nil {
				t.Fatal(err)
			}
			if r, _ := w.receive(t); r.Ready == nil {
				t.Fatalf("%+v", r)
			}
			end(w)
			if code := w.exitCode(t); code != worker.ExitOrphan {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestConn_Messages(t *testing.T) {
	a, far, err := worker.Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := worker.NewConn(far)
	if err != nil {
		t.Fatal(err)
	}
	// A request of every size arrives in order and whole.
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 1<<20 + 4096} {
		sent := make([]byte, size)
		rand.Read(sent)
		failed := make(chan error, 1)
		go func() { failed <- a.SendForward(sent) }()
		var got []byte
		for {
			var r worker.Request
			if _, err := b.Receive(&r); err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Forward.Part...)
			if r.Forward.Last {
				break
			}
		}
		if err := <-failed; err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes: %v, equal %v", size, err, bytes.Equal(got, sent))
		}
	}
	// Descriptors travel with a message.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send(worker.Request{Serve: &worker.Serve{}}, w, r); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var m worker.Request
	files, err := b.Receive(&m)
	if err != nil || len(files) != 2 || m.Serve == nil {
		t.Fatalf("%v %v", files, err)
	}
	go files[0].Write([]byte("x"))
	one := make([]byte, 1)
	if _, err := r.Read(one); err != nil || one[0] != 'x' {
		t.Errorf("through the descriptor: %q %v", one, err)
	}
	files[0].Close()
	files[1].Close()
	a.Close()
	if _, err := b.Receive(&m); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	b.Close()
	if _, err := b.Receive(&m); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after closing: %v", err)
	}
}
