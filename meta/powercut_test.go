package meta_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/internal/powercut"
	"cmkfs/meta"
	"cmkfs/store"
)

// TestPowerCut cuts the power of the host under a volume, as far as a program
// can: the volume lies on an ext4 of its own, which is shut down without
// flushing its journal while a process works on the volume, is mounted again,
// and replays what it has. The process tells what was answered and what was
// flushed; the volume must be a prefix of the first and contain the second.
// CMKFS_POWER_CUTS says how often.
func TestPowerCut(t *testing.T) {
	cuts := 25
	if s := os.Getenv("CMKFS_POWER_CUTS"); s != "" {
		var err error
		if cuts, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	d := powerDisk(t)
	seed := uint64(time.Now().UnixNano())
	flushed, lost := 0, 0
	for n := range cuts {
		l, err := cutOnce(d, seed+uint64(n))
		if err != nil {
			t.Fatalf("cut %d, seed %d: %v", n, seed+uint64(n), err)
		}
		flushed += l.flushed
		lost += l.answered - l.found
		t.Logf("cut %d: %d operations answered, %d flushed, %d found", n, l.answered, l.flushed, l.found)
	}
	if lost == 0 && cuts >= 20 {
		t.Error("no cut has cost anything: was the disk cut at all?")
	}
	t.Logf("%d cuts: %d flushed operations, all there; %d that were not flushed are lost", cuts, flushed, lost)
}

func powerDisk(t *testing.T) *powercut.Disk {
	t.Helper()
	d, err := powercut.New(shm(t), 128<<20)
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// ledger is what a worker said.
type ledger struct {
	answered int // so many operations
	flushed  int // of these so many
	found    int // after the cut
}

func powerConfig(dir string) (meta.Config, *store.Dir, error) {
	st, err := store.OpenDir(dir)
	return meta.Config{Store: st, Key: crypto.Key{1, 2, 3}, VolumeID: [16]byte{4, 5, 6}}, st, err
}

// cutOnce makes a volume, has a worker work on it, cuts, and looks.
func cutOnce(d *powercut.Disk, seed uint64) (*ledger, error) {
	rnd := rand.New(rand.NewPCG(seed, 9))
	dir := filepath.Join(d.Dir(), "volume")
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return nil, err
	}
	unix.Sync()
	l := &ledger{}
	err := l.watch(d, dir, seed, 20+rnd.IntN(500), time.Duration(rnd.IntN(4000))*time.Microsecond)
	if err := errors.Join(err, d.Unmount()); err != nil {
		return nil, err
	}
	if err := d.Mount(); err != nil {
		return nil, err
	}
	return l, l.look(dir, seed)
}

// watch runs a worker, cuts a moment after it has answered so many operations,
// kills it, and keeps what it has said.
func (l *ledger) watch(d *powercut.Disk, dir string, seed uint64, ops int, moment time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), powerDirEnv+"="+dir, fmt.Sprintf("%s=%d", powerSeedEnv, seed))
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	cut := errors.New("the worker ended before the cut")
	read := l.read(said, func() bool {
		if l.answered < ops {
			return false
		}
		time.Sleep(moment)
		cut = d.Cut()
		// It has a moment to see what the cut does to it, and dies.
		time.AfterFunc(100*time.Millisecond, func() { _ = cmd.Process.Kill() })
		return true
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // however it ended
	return errors.Join(cut, read)
}

// read reads a worker's lines up to the end. enough is asked until it says yes.
func (l *ledger) read(from io.Reader, enough func() bool) error {
	done := false
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		kind, arg, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(arg)
		switch {
		case kind == "answered" && err == nil:
			l.answered = n
		case kind == "flushed" && err == nil:
			l.flushed = max(l.flushed, n)
		case kind == "stopped" && done:
			// as it must when its disk is gone
		default:
			return fmt.Errorf("the worker says: %s", lines.Text())
		}
		done = done || enough()
	}
	return nil
}

// look opens the volume and compares it with what the worker said.
func (l *ledger) look(dir string, seed uint64) error {
	cfg, st, err := powerConfig(dir)
	if err != nil {
		return err
	}
	defer st.Close()
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		return fmt.Errorf("open after the cut: %w", err)
	}
	got, err := dumpVolume(v)
	if err := errors.Join(err, v.Close(context.Background())); err != nil {
		return fmt.Errorf("after the cut: %w", err)
	}
	// One more may be there than was answered.
	m, g := newModel(), powerScript(seed)
	l.found = -1
	for k := 0; k <= l.answered+1; k++ {
		if k >= l.flushed && m.dump() == got {
			l.found = k
		}
		m, _ = g(m)
	}
	if l.found < 0 {
		return fmt.Errorf("the volume is none of the states after %d (flushed) to %d (answered) operations", l.flushed, l.answered)
	}
	found, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true})
	if err != nil || len(found) > 0 {
		return fmt.Errorf("check: %v, %w", found, err)
	}
	return nil
}

// powerScript returns the operations of a seed, one for each call.
func powerScript(seed uint64) func(m *model) (*model, op) {
	g := &generator{rnd: rand.New(rand.NewPCG(seed, 8)), seeds: seed % 1e9 * 1000}
	return func(m *model) (*model, op) {
		o := g.next(m)
		for o.kind == "copy" || o.kind == "sync" {
			o = g.next(m) // may do less than asked for; is done by others
		}
		next, _ := o.apply(m)
		return next, o
	}
}
