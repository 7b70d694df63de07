package supervisor_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor/api"
)

// TestSuspend_CyclesUnderWriters suspends and restores again and again while
// blocks are written. A write that was answered is there in the end, whether it
// was answered before, during or after a suspension.
func TestSuspend_CyclesUnderWriters(t *testing.T) {
	for _, options := range [][]string{nil, {"writeback"}} {
		t.Run(fmt.Sprint(options), func(t *testing.T) {
			r := newRig(t, options...)
			stop := make(chan struct{})
			var writers sync.WaitGroup
			models := make([]*blockModel, 3)
			for i := range models {
				models[i] = newBlockModel(t, r.path(fmt.Sprint("blocks", i)), uint64(i))
				writers.Go(func() { models[i].run(stop) })
			}
			for range 10 {
				time.Sleep(rand.N(60 * time.Millisecond))
				if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
					t.Fatal(err)
				}
				if v := r.volume(); v.State != api.VolumeSuspended {
					t.Fatalf("%+v", v)
				}
				if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
					t.Fatal(err)
				}
			}
			close(stop)
			writers.Wait()
			for _, m := range models {
				m.verify()
			}
			if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
				t.Fatal(err)
			}
			r.mustMount()
			for _, m := range models {
				m.reopen()
				m.verify()
			}
		})
	}
}

// TestCrash_EverythingKilledUnderWriters: what was answered survives the death
// of all processes.
func TestCrash_EverythingKilledUnderWriters(t *testing.T) {
	r := newRig(t)
	for round := range 4 {
		var writers sync.WaitGroup
		models := make([]*blockModel, 3)
		for i := range models {
			models[i] = newBlockModel(t, r.path(fmt.Sprint("blocks", round, "-", i)), uint64(i))
			writers.Go(func() { models[i].run(nil) })
		}
		time.Sleep(100*time.Millisecond + rand.N(300*time.Millisecond))
		pid := r.cmd.Process.Pid
		for _, p := range append(append(children(t, pid, "worker"), children(t, pid, "key-agent")...), pid) {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		writers.Wait()
		<-r.ended
		r.daemon = startDaemon(t, r.dir)
		r.mustMount()
		for _, m := range models {
			m.reopen()
			m.verify()
		}
	}
}

// blockModel writes numbered blocks over each other and knows the last number
// that was answered, and those that failed since: of a failed write nothing is
// known.
type blockModel struct {
	t        *testing.T
	path     string
	f        *os.File
	rng      *rand.Rand
	answered []uint64
	failed   []map[uint64]bool
	number   uint64

	// With writeback, answered is promised only what fsync has not reported.
	writeback bool
	before    []map[uint64]bool // what blocks may have had since the last fsync that succeeded
	lost      []map[uint64]bool // and may have again, because one failed
}

// answer notes a write that was answered.
func (m *blockModel) answer(i int) {
	if m.writeback {
		if m.before[i] == nil {
			m.before[i] = map[uint64]bool{}
		}
		m.before[i][m.answered[i]] = true
		maps.Copy(m.before[i], m.failed[i])
	}
	m.answered[i], m.failed[i] = m.number, nil
}

// sync notes what fsync says, and reports whether it may say so.
func (m *blockModel) sync() error {
	err := m.f.Sync()
	switch {
	case err == nil:
		for i := range m.before {
			if m.before[i] != nil { // written since the last loss
				m.before[i], m.lost[i] = nil, nil
			}
		}
	case m.writeback && (errnoIs(err, unix.ENOKEY) || errnoIs(err, unix.EIO)):
		for i := range m.before {
			if m.lost[i] == nil {
				m.lost[i] = map[uint64]bool{}
			}
			maps.Copy(m.lost[i], m.before[i])
			m.before[i] = nil // the kernel tries once, and what it could not save stays in its cache
		}
		return nil
	}
	return err
}

const (
	blockSize  = 4096
	blockCount = 64
)

func newBlockModel(t *testing.T, path string, seed uint64) *blockModel {
	m := &blockModel{
		t: t, path: path, rng: rand.New(rand.NewPCG(seed, 2)),
		answered: make([]uint64, blockCount), failed: make([]map[uint64]bool, blockCount),
		before: make([]map[uint64]bool, blockCount), lost: make([]map[uint64]bool, blockCount),
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(blockSize * blockCount); err != nil {
		t.Fatal(err)
	}
	m.f = f
	return m
}

func (m *blockModel) reopen() {
	m.t.Helper()
	f, err := os.Open(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.f = f
}

func (m *blockModel) run(stop <-chan struct{}) {
	buf := make([]byte, blockSize)
	for {
		select {
		case <-stop:
			if err := m.sync(); err != nil {
				m.t.Errorf("fsync at the end: %v", err)
			}
			return
		default:
		}
		m.number++
		i := m.rng.IntN(blockCount)
		for at := 0; at < blockSize; at += 8 {
			binary.LittleEndian.PutUint64(buf[at:], m.number)
		}
		_, err := m.f.WriteAt(buf, int64(i)*blockSize)
		switch {
		case err == nil:
			m.answer(i)
		case errnoIs(err, unix.ENOKEY), errnoIs(err, unix.ENOTCONN), errnoIs(err, unix.ECONNABORTED):
			if m.failed[i] == nil {
				m.failed[i] = map[uint64]bool{}
			}
			m.failed[i][m.number] = true
			if !errnoIs(err, unix.ENOKEY) {
				m.f.Close()
				return // the mount is dead
			}
		default:
			m.t.Errorf("write: %v", err)
			return
		}
		if m.number%32 == 0 {
			err := m.sync()
			if err != nil && !errnoIs(err, unix.ENOKEY) && !errnoIs(err, unix.ENOTCONN) && !errnoIs(err, unix.ECONNABORTED) {
				m.t.Errorf("fsync: %v", err)
				return
			}
		}
	}
}

// verify compares all blocks and closes the file.
func (m *blockModel) verify() {
	m.t.Helper()
	defer m.f.Close()
	buf := make([]byte, blockSize)
	for i := range blockCount {
		if _, err := m.f.ReadAt(buf, int64(i)*blockSize); err != nil {
			m.t.Errorf("%s: block %d: %v", filepath.Base(m.path), i, err)
			continue
		}
		got := binary.LittleEndian.Uint64(buf)
		if got != m.answered[i] && !m.failed[i][got] && !m.lost[i][got] {
			m.t.Errorf("%s: block %d has number %d, answered was %d", filepath.Base(m.path), i, got, m.answered[i])
		}
		for at := 8; at < blockSize; at += 8 {
			if n := binary.LittleEndian.Uint64(buf[at:]); n != got {
				m.t.Errorf("%s: block %d is torn: %d and %d", filepath.Base(m.path), i, got, n)
				break
			}
		}
	}
}

// TestUnmount_WorkerKilledMeanwhile: the unmount is carried out all the same.
func TestUnmount_WorkerKilledMeanwhile(t *testing.T) {
	r := newRig(t)
	for n := range 8 {
		name := r.path(fmt.Sprint("file", n))
		if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		pid := r.workerPID()
		done := make(chan error, 1)
		go func() {
			_, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{})
			done <- err
		}()
		time.Sleep(time.Duration(n) * 500 * time.Microsecond)
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended by then
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if v := r.volume(); v.State != api.VolumeUnmounted {
			t.Fatalf("%+v", v)
		}
		r.mustMount()
		if b, err := os.ReadFile(name); err != nil || string(b) != "content" {
			t.Fatalf("%q %v", b, err)
		}
	}
}

// TestVolumes_Several: what is done to one volume does not touch the others,
// and an account's suspension touches all.
func TestVolumes_Several(t *testing.T) {
	r := newRig(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountLeft(other) })
	// Two at once with one name: one is made.
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "two", QuotaBytes: 1 << 30})
			errs <- err
		}()
	}
	first, second := <-errs, <-errs
	if (first == nil) == (second == nil) {
		t.Fatalf("two volumes at once: %v, %v", first, second)
	}
	var e *api.Error
	if err := errors.Join(first, second); !errors.As(err, &e) || e.Code != api.CodeBusy && e.Code != api.CodeExists {
		t.Errorf("the second one: %v", err)
	}
	if _, err := r.Mount(r.ctx, "acct", "two", api.Mount{MountPoint: other}); err != nil {
		t.Fatal(err)
	}
	states := func() string {
		st, err := r.Status(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return st.Accounts[0].Volumes[0].State + " " + st.Accounts[0].Volumes[1].State
	}
	expect := func(what, want string) {
		t.Helper()
		if got := states(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	if _, err := r.SuspendVolume(r.ctx, "acct", "two"); err != nil {
		t.Fatal(err)
	}
	expect("one suspended", "suspended online") // "two" sorts before "vol"
	if err := os.WriteFile(r.path("x"), nil, 0o600); err != nil {
		t.Error(err)
	}
	if _, err := r.SuspendAccount(r.ctx, "acct"); err != nil {
		t.Fatal(err)
	}
	expect("account suspended", "suspended suspended")
	if s := r.account().State; s != "suspended" {
		t.Errorf("account: %s", s)
	}
	if _, err := r.RestoreAccount(r.ctx, "acct"); err != nil {
		t.Fatal(err)
	}
	expect("account restored", "online online")
	r.stop()
	if _, err := os.Stat(filepath.Join(other, "x")); !os.IsNotExist(err) {
		t.Errorf("still mounted: %v", err)
	}
}
