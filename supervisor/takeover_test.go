package supervisor_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor/api"
)

// TestTakeover_WorkerKilledUnderLoad kills the worker again and again while fio
// verifies what it wrote, a package is compiled and names are made and removed.
// Nobody may notice: no operation fails, none is applied twice, nothing that
// was answered is lost.
func TestTakeover_WorkerKilledUnderLoad(t *testing.T) {
	t.Run("writethrough", func(t *testing.T) { killUnderLoad(t, 50) })
	t.Run("writeback", func(t *testing.T) { killUnderLoad(t, 10, "writeback") })
}

func killUnderLoad(t *testing.T, kills int, options ...string) {
	r := newRig(t, options...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	load.Go(func() { runFio(ctx, t, r.path("fio")) })
	load.Go(func() { runBuilds(ctx, t, r.path("build")) })
	models := make([]*nameModel, 3)
	for i := range models {
		models[i] = newNameModel(t, r.path(fmt.Sprintf("names%d", i)), uint64(i))
		load.Go(func() { models[i].run(ctx) })
	}
	last := 0
	for n := range kills {
		var v api.VolumeStatus
		eventually(t, "another worker serves", func() bool {
			v = r.volume()
			return v.State == api.VolumeOnline && v.WorkerPID != 0 && v.WorkerPID != last
		})
		time.Sleep(250*time.Millisecond + rand.N(700*time.Millisecond))
		if t.Failed() {
			t.Fatalf("after %d kills", n)
		}
		last = v.WorkerPID
		if err := unix.Kill(last, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	load.Wait()
	if v := r.volume(); v.Restarts != kills {
		t.Errorf("%d restarts after %d kills", v.Restarts, kills)
	}
	for _, m := range models {
		m.verify()
	}
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	r.mustMount()
	for _, m := range models {
		m.verify()
	}
}

// TestTakeover_KilledAtOnce kills workers as soon as they serve, or even while
// they start: still nobody notices.
func TestTakeover_KilledAtOnce(t *testing.T) {
	r := newRig(t)
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		for killed := map[int]bool{}; len(killed) < 12; time.Sleep(10 * time.Millisecond) {
			for _, pid := range children(t, r.cmd.Process.Pid, "worker") {
				_ = unix.Kill(pid, unix.SIGKILL)
				killed[pid] = true
			}
		}
		close(stop)
	})
	files := 0
	for done := false; !done; files++ {
		if err := os.WriteFile(r.path(fmt.Sprint("file", files)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-stop:
			done = true
		default:
		}
	}
	killer.Wait()
	if entries, err := os.ReadDir(r.mount); err != nil || len(entries) != files {
		t.Errorf("%d files of %d, %v", len(entries), files, err)
	}
}

// TestTakeover_WorkerHangs: a worker that does not run is replaced.
func TestTakeover_WorkerHangs(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.path("file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	pid := r.workerPID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	if err := os.Mkdir(r.path("dir"), 0o700); err != nil {
		t.Error(err)
	}
	v := r.volume()
	if v.WorkerPID == pid || v.Restarts != 1 {
		t.Errorf("%+v", v)
	}
	// One that is to end is not waited for.
	if err := unix.Kill(r.workerPID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if v, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil || v.State != api.VolumeSuspended {
		t.Errorf("%+v %v", v, err)
	}
}

// TestTakeover_NoWorker: requests fail at once while no worker can be started,
// and are served again as soon as one can.
func TestTakeover_NoWorker(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.path("file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := filepath.Join(r.dir, "accounts/acct/volumes/vol/superblock")
	if err := os.Rename(block, block+".away"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(r.workerPID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadDir(r.mount); !errnoIs(err, unix.EIO) {
		t.Errorf("without a worker: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 7), 0); !errnoIs(err, unix.EIO) {
		t.Errorf("through an open file: %v", err)
	}
	if v := r.volume(); v.State != api.VolumeSuspended || v.Reason == "" {
		t.Errorf("without a worker: %+v", v)
	}
	if err := os.Rename(block+".away", block); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume is served again", func() bool { return r.volume().State == api.VolumeOnline })
	b := make([]byte, 7)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "content" {
		t.Errorf("%q %v", b, err)
	}
}

// TestTakeover_KeyNotReached: requests wait for a new worker only so long.
func TestTakeover_KeyNotReached(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.path("file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var stopper sync.WaitGroup
	stopper.Go(func() {
		for ctx.Err() == nil { // agents are replaced
			for _, pid := range children(t, r.cmd.Process.Pid, "key-agent") {
				_ = unix.Kill(pid, unix.SIGSTOP)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	defer stopper.Wait()
	defer stop()
	time.Sleep(50 * time.Millisecond)
	if err := unix.Kill(r.workerPID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadDir(r.mount); !errnoIs(err, unix.ENOKEY) {
		t.Errorf("while the key is not reached: %v", err)
	}
	stop()
	stopper.Wait()
	eventually(t, "the volume is served again", func() bool { return r.volume().State == api.VolumeOnline })
	if b, err := os.ReadFile(r.path("file")); err != nil || string(b) != "x" {
		t.Errorf("%q %v", b, err)
	}
}

// runFio runs fio with verification until ctx ends; the run under way is
// finished, so that everything written is verified.
func runFio(ctx context.Context, t *testing.T, dir string) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Error(err)
		return
	}
	state := t.TempDir()
	for runs := 0; ctx.Err() == nil; runs++ {
		cmd := exec.Command("fio", "--name=v", "--directory="+dir, "--rw=randwrite", "--bsrange=1k-128k",
			"--size=24m", "--numjobs=2", "--ioengine=psync", "--fsync=16", "--verify=crc32c", "--verify_fatal=1",
			"--do_verify=1", "--randrepeat=0", fmt.Sprintf("--randseed=%d", runs), "--group_reporting")
		cmd.Dir = state // where fio puts its notes
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("fio: %v\n%s", err, out)
			return
		}
	}
}

// runBuilds compiles a package on the mount, from an empty build cache there.
func runBuilds(ctx context.Context, t *testing.T, dir string) {
	files := map[string]string{
		"go.mod":       "module hello\n\ngo 1.24\n",
		"main.go":      "package main\n\nimport \"hello/greet\"\n\nfunc main() { println(greet.Text(\"world\")) }\n",
		"greet/one.go": "package greet\n\nimport \"strconv\"\n\nfunc Text(s string) string { return \"hello, \" + strconv.Quote(s) }\n",
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Error(err)
			return
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Error(err)
			return
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o755); err != nil {
		t.Error(err)
		return
	}
	for n := 0; ctx.Err() == nil; n++ {
		cmd := exec.Command("go", "build", "-o", "hello", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOCACHE="+filepath.Join(dir, fmt.Sprintf("cache%d", n)),
			"GOTMPDIR="+filepath.Join(dir, "tmp"), "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("go build: %v\n%s", err, out)
			return
		}
		out, err := exec.Command(filepath.Join(dir, "hello")).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `hello, "world"`) {
			t.Errorf("the program that was built: %v %q", err, out)
			return
		}
	}
}

// nameModel makes, renames, links and removes names, one after the other, and
// knows what must be there. An operation that is applied twice fails (EEXIST,
// ENOENT), and one that is lost is missed.
type nameModel struct {
	t     *testing.T
	dir   string
	rng   *rand.Rand
	files map[string]string // name to content
	dirs  map[string]bool
	next  int
}

func newNameModel(t *testing.T, dir string, seed uint64) *nameModel {
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &nameModel{t: t, dir: dir, rng: rand.New(rand.NewPCG(seed, 1)), files: map[string]string{}, dirs: map[string]bool{}}
}

func (m *nameModel) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.step(); err != nil {
			m.t.Errorf("names: %v", err)
			return
		}
	}
}

// fresh returns a name that is not used.
func (m *nameModel) fresh() string {
	m.next++
	return fmt.Sprintf("n%d", m.next)
}

func (m *nameModel) path(name string) string { return filepath.Join(m.dir, name) }

func (m *nameModel) step() error {
	pick := func() (string, bool) {
		for name := range m.files {
			return name, true
		}
		return "", false
	}
	old, ok := pick()
	switch op := m.rng.IntN(10); {
	case !ok || op < 4:
		name := m.fresh()
		f, err := os.OpenFile(m.path(name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		text := strings.Repeat(name+"\n", 1+m.rng.IntN(2000))
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		m.files[name] = text
	case op == 4:
		name := m.fresh()
		if err := os.Rename(m.path(old), m.path(name)); err != nil {
			return err
		}
		m.files[name] = m.files[old]
		delete(m.files, old)
	case op == 5:
		name := m.fresh()
		if err := os.Link(m.path(old), m.path(name)); err != nil {
			return err
		}
		if err := os.Remove(m.path(old)); err != nil {
			return err
		}
		m.files[name] = m.files[old]
		delete(m.files, old)
	case op == 6:
		name := m.fresh()
		if err := os.Mkdir(m.path(name), 0o700); err != nil {
			return err
		}
		m.dirs[name] = true
	case op == 7:
		for name := range m.dirs {
			if err := syscall.Rmdir(m.path(name)); err != nil {
				return &os.PathError{Op: "rmdir", Path: name, Err: err}
			}
			delete(m.dirs, name)
			break
		}
	case op == 8:
		if err := os.Remove(m.path(old)); err != nil {
			return err
		}
		delete(m.files, old)
	default:
		return m.compare(old)
	}
	return nil
}

func (m *nameModel) compare(name string) error {
	got, err := os.ReadFile(m.path(name))
	if err == nil && string(got) != m.files[name] {
		err = fmt.Errorf("%s has %d other bytes than the %d written", name, len(got), len(m.files[name]))
	}
	return err
}

// verify compares everything.
func (m *nameModel) verify() {
	m.t.Helper()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		m.t.Error(err)
		return
	}
	if want := len(m.files) + len(m.dirs); len(entries) != want {
		m.t.Errorf("%s has %d names, want %d", filepath.Base(m.dir), len(entries), want)
	}
	for name := range m.files {
		if err := m.compare(name); err != nil {
			m.t.Error(err)
		}
	}
	for name := range m.dirs {
		if st, err := os.Stat(m.path(name)); err != nil || !st.IsDir() {
			m.t.Errorf("directory %s: %v", name, err)
		}
	}
}
