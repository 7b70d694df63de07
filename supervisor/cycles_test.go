package supervisor_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// TestRoutes_Cycles suspends and restores while readers hammer every route and
// writers write. Between "suspended" and "restore" no reader gets anything; what
// was answered is there in the end. Every fifth worker is killed while it
// suspends. CMKFS_CYCLES=1000 makes the long run of it.
func TestRoutes_Cycles(t *testing.T) {
	cycles := 15
	if n, err := strconv.Atoi(os.Getenv("CMKFS_CYCLES")); err == nil {
		cycles = n
	}
	for _, options := range [][]string{nil, {"writeback"}} {
		t.Run(strings.Join(append([]string{"options"}, options...), "-"), func(t *testing.T) { cycle(t, cycles, options...) })
	}
}

func cycle(t *testing.T, cycles int, options ...string) {
	r := newRig(t, options...)
	routes := prepareRoutes(t, r)
	var epoch atomic.Int64 // odd = everybody must be refused
	var tries, refused atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for _, way := range routes {
		if way.name == "exec" || way.name == "lseek" && len(options) > 0 {
			continue // slow; for the second see TestRoutes_Suspended
		}
		load.Go(func() {
			for ctx.Err() == nil {
				before := epoch.Load()
				got, err := way.try()
				tries.Add(1)
				if err != nil {
					refused.Add(1)
				}
				if before%2 == 1 && epoch.Load() == before && (err == nil || bytes.Contains(got, []byte(routeCanary))) {
					t.Errorf("cycle %d: %s: %q %v while suspended", before/2, way.name, got[:min(len(got), 40)], err)
					return
				}
				time.Sleep(rand.N(2 * time.Millisecond))
			}
		})
	}
	models := make([]*blockModel, 2)
	for i := range models {
		models[i] = newBlockModel(t, r.path(fmt.Sprint("blocks", i)), uint64(i))
		models[i].writeback = len(options) > 0
		load.Go(func() { models[i].run(ctx.Done()) })
	}
	for n := range cycles {
		time.Sleep(rand.N(40 * time.Millisecond))
		if n%5 == 4 {
			pid := r.volume().WorkerPID
			time.AfterFunc(rand.N(15*time.Millisecond), func() { _ = unix.Kill(pid, unix.SIGKILL) }) // it may have ended
		}
		if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
			t.Fatal(err)
		}
		epoch.Add(1)
		time.Sleep(rand.N(20 * time.Millisecond))
		epoch.Add(1)
		if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	load.Wait()
	t.Logf("%d cycles, %d tries, %d of them refused", cycles, tries.Load(), refused.Load())
	if refused.Load() == 0 {
		t.Error("nothing was ever refused")
	}
	checkRoutes(t, "at the end", routes, true)
	for _, m := range models {
		m.verify()
	}
}

// TestSuspend_ReadaheadInFlight: what the kernel is reading ahead when access is
// taken away does not arrive in its cache.
func TestSuspend_ReadaheadInFlight(t *testing.T) {
	for _, options := range [][]string{nil, {"writeback"}} {
		t.Run(strings.Join(append([]string{"options"}, options...), "-"), func(t *testing.T) {
			r := newRig(t, options...)
			const size = 32 << 20
			if err := os.WriteFile(r.path("file"), make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(r.path("file"), os.O_RDWR, 0) // mincore tells only who may write
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			mapping, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(mapping)
			partly := 0
			for n := range 10 {
				if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
					t.Fatal(err)
				}
				if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_WILLNEED); err != nil {
					t.Fatal(err)
				}
				if pages := readable(t, mapping); pages > 0 && pages < size/4096 {
					partly++
				}
				if v, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil || v.State != api.VolumeSuspended {
					t.Fatalf("%+v %v", v, err)
				}
				if pages := readable(t, mapping); pages > 0 {
					t.Errorf("cycle %d: %d pages are readable", n, pages)
				}
				if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("in %d of 10 cycles a part had arrived before", partly)
		})
	}
}

// TestProcesses_MemoryIsHidden: no process of ours leaves a core file or lets a
// process of its own user look into it.
func TestProcesses_MemoryIsHidden(t *testing.T) {
	r := newRig(t)
	daemon := r.cmd.Process.Pid
	type process struct {
		name string
		pid  int
	}
	var processes []process
	for _, pid := range children(t, daemon, "key-agent") { // first: it ends by itself
		processes = append(processes, process{"key agent", pid})
	}
	processes = append(processes, process{"supervisor", daemon}, process{"keeper", r.keeper()}, process{"worker", r.volume().WorkerPID})
	for _, p := range processes {
		name, pid := p.name, p.pid
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(limits)) {
			if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
				t.Errorf("%s: %s", name, line)
			}
		}
		out, err := exec.Command("/proc/self/exe", "peek", strconv.Itoa(pid)).CombinedOutput()
		if err != nil || string(out) != "permission denied\n" {
			t.Errorf("%s: its memory: %q %v", name, out, err)
		}
	}
	// The same process may look into one that does not hide.
	if out, err := exec.Command("/proc/self/exe", "peek", "self").CombinedOutput(); err != nil || string(out) != "open\n" {
		t.Errorf("control: %q %v", out, err)
	}
}

// peek tries to open a process's memory as its user would, without privileges.
func peek(pid string) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		fmt.Println(err)
		return
	}
	fd, err := unix.Open("/proc/"+pid+"/mem", unix.O_RDONLY, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	unix.Close(fd)
	fmt.Println("open")
}

// TestSuspend_WhatIsWrittenAfterwards is refused and stays nowhere: the process
// that refuses it does not keep it.
func TestSuspend_WhatIsWrittenAfterwards(t *testing.T) {
	r := newRig(t)
	f, err := os.Create(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	if _, err := f.Write(bytes.Repeat([]byte(secret), 4096)); !errnoIs(err, unix.ENOKEY) {
		t.Errorf("write while suspended: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.mount, secret)); !errnoIs(err, unix.ENOKEY) {
		t.Errorf("stat while suspended: %v", err)
	}
	secrets := map[string][]byte{"what was written": []byte(secret)}
	eventually(t, "it is forgotten", func() bool {
		return len(searchMemory(t, r.cmd.Process.Pid, secrets)) == 0 && len(searchMemory(t, r.keeper(), secrets)) == 0
	})
	if found := searchFiles(t, r.dir, secrets); len(found) > 0 {
		t.Error("it is in the state directory")
	}
	if e := r.lastEvent(account.AuditVolOffline); e.Volume != "vol" {
		t.Errorf("%+v", e)
	}
}
