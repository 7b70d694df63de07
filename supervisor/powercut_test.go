package supervisor_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/internal/powercut"
	"cmkfs/supervisor/api"
)

// TestPowerCut_UnderMount cuts the power of the disk on which the whole state
// directory lies while programs write through the mount, kills every process,
// and starts again on what the disk has. CMKFS_POWER_CUTS says how often, in
// tens.
func TestPowerCut_UnderMount(t *testing.T) {
	cuts := 3
	if n, err := strconv.Atoi(os.Getenv("CMKFS_POWER_CUTS")); err == nil {
		cuts = max(1, n/10)
	}
	for n := range cuts {
		powerCut(t)
		if t.Failed() {
			t.Fatalf("cut %d", n)
		}
	}
}

// powered is a rig whose state directory lies on a disk that can be cut.
type powered struct {
	*rig
	disk *powercut.Disk
}

func newPowered(t *testing.T) *powered {
	t.Helper()
	base := shortDir(t)
	disk, err := powercut.New(base, 1<<30)
	t.Cleanup(func() {
		if err := disk.Unmount(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{ctx: t.Context(), mount: filepath.Join(base, "mnt")}
	if err := os.Mkdir(r.mount, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountLeft(r.mount) })
	showLog(t)
	r.daemon = startDaemon(t, filepath.Join(disk.Dir(), "state"))
	if _, err := r.CreateAccount(r.ctx, api.CreateAccount{Name: "acct"}); err != nil {
		t.Fatal(err)
	}
	r.addVolume()
	return &powered{r, disk}
}

// killAll kills every process of the daemon.
func (p *powered) killAll() {
	daemon := p.cmd.Process.Pid
	pids := append(children(p.t, daemon, "worker"), children(p.t, daemon, "key-agent")...)
	for _, pid := range append(append(pids, children(p.t, daemon, "keeper.lock")...), daemon) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	<-p.ended
}

// cut cuts the power, and kills every process a moment later.
func (p *powered) cut() {
	p.t.Helper()
	if err := p.disk.Cut(); err != nil {
		p.t.Fatal(err)
	}
	time.Sleep(rand.N(50 * time.Millisecond))
	p.killAll()
}

// again gives the disk its power back, if that was cut, and mounts the volume.
// Nobody uses the old mount any more.
func (p *powered) again(wasCut bool) {
	p.t.Helper()
	unmountLeft(p.mount)
	if wasCut {
		if err := errors.Join(p.disk.Unmount(), p.disk.Mount()); err != nil {
			p.t.Fatal(err)
		}
	}
	p.daemon = startDaemon(p.t, p.dir)
	p.mustMount()
}

func powerCut(t *testing.T) {
	r := newPowered(t)
	var writers sync.WaitGroup
	ledgers := make([]*ledgered, 3)
	for i := range ledgers {
		l := newLedgered(t, r.path(fmt.Sprint(i)))
		ledgers[i] = l
		writers.Go(l.run)
	}
	time.Sleep(50*time.Millisecond + rand.N(400*time.Millisecond))
	r.cut()
	writers.Wait()
	r.again(true)
	for _, l := range ledgers {
		l.verify()
	}
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Error(err)
	}
	r.stop()
}

// ledgered is a folder in which one writer works and keeps account: step n
// writes n into a block of the file "blocks", or makes a new file "current" by
// a rename.
type ledgered struct {
	t       *testing.T
	dir     string
	rng     *rand.Rand
	blocks  []int // of each step: the block, or -1 for the rename
	flushed int   // so many steps are flushed
}

const renamed = -1

func newLedgered(t *testing.T, dir string) *ledgered {
	t.Helper()
	l := &ledgered{t: t, dir: dir, rng: rand.New(rand.NewPCG(rand.Uint64(), 0))}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return l
}

// content is what step n writes: long enough to lie in several host blocks.
func content(n int) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, uint64(n)), blockSize/8)
}

// run works until the disk is gone. A step counts before it is tried.
func (l *ledgered) run() {
	f, err := os.Create(filepath.Join(l.dir, "blocks"))
	if err != nil {
		return
	}
	defer f.Close()
	for n := 0; ; n++ {
		if l.rng.IntN(8) == 0 {
			l.blocks = append(l.blocks, renamed)
			temp := filepath.Join(l.dir, "temp")
			if os.WriteFile(temp, content(n), 0o600) != nil || os.Rename(temp, filepath.Join(l.dir, "current")) != nil {
				return
			}
		} else {
			b := l.rng.IntN(blockCount)
			l.blocks = append(l.blocks, b)
			if _, err := f.WriteAt(content(n), int64(b)*blockSize); err != nil {
				return
			}
		}
		if l.rng.IntN(10) == 0 {
			if f.Sync() != nil {
				return
			}
			l.flushed = len(l.blocks)
		}
	}
}

// verify wants the folder to be as it was after some step, and not before the
// last flush.
func (l *ledgered) verify() {
	l.t.Helper()
	blocks, err := os.ReadFile(filepath.Join(l.dir, "blocks"))
	if err != nil && l.flushed > 0 {
		l.t.Error(err)
		return
	}
	current, _ := os.ReadFile(filepath.Join(l.dir, "current"))
	var want [blockCount][]byte
	var wantCurrent []byte
	for n := 0; ; n++ {
		if n >= l.flushed && same(blocks, want[:]) && bytes.Equal(current, wantCurrent) {
			l.t.Logf("%d steps, %d flushed, %d found", len(l.blocks), l.flushed, n)
			return
		}
		if n == len(l.blocks) {
			l.t.Errorf("%s is as after no step from %d to %d", filepath.Base(l.dir), l.flushed, n)
			return
		}
		if b := l.blocks[n]; b == renamed {
			wantCurrent = content(n)
		} else {
			want[b] = content(n)
		}
	}
}

// same compares a file with its blocks; those that were never written are holes
// or behind its end.
func same(file []byte, want [][]byte) bool {
	for i, w := range want {
		var got []byte
		if from := i * blockSize; from < len(file) {
			got = file[from:min(from+blockSize, len(file))]
		}
		if w == nil {
			if len(bytes.Trim(got, "\x00")) > 0 {
				return false
			}
		} else if !bytes.Equal(got, w) {
			return false
		}
	}
	return true
}
