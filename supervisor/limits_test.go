package supervisor_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cmkfs/internal/race"
)

// memoryLimit is the most that a process may take, in MiB, whatever the size of
// the volume. The index's pages, which the kernel can take back, are in it.
const memoryLimit = 256

// limitFilesEnv is how many files TestMemory_Bound makes.
const limitFilesEnv = "CMKFS_LIMIT_FILES"

// statusOf reads the numbers of a process's status file; memory in MiB.
func statusOf(t *testing.T, pid int) map[string]int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) == 2 && f[1] == "kB" {
			kib, _ := strconv.Atoi(f[0])
			found[name] = kib >> 10
		}
	}
	return found
}

// TestMemory_Bound: large requests, many small files in one directory, a
// checkpoint's worth of changes spread over all of them, and many requests at a
// time do not make any process grow beyond the bound.
func TestMemory_Bound(t *testing.T) {
	r := newRig(t)
	files := 6000
	if n, err := strconv.Atoi(os.Getenv(limitFilesEnv)); err == nil {
		files = n
	}
	pid := r.workerPID()
	show := func(when string) {
		m := statusOf(t, pid)
		t.Logf("%s: resident %d MiB (anonymous %d, files %d, shared %d), at most %d", when, m["VmRSS"], m["RssAnon"], m["RssFile"], m["RssShmem"], m["VmHWM"])
	}
	show("at the begin")

	data := bytes.Repeat([]byte("sequential"), 1<<20/10)
	f, err := os.Create(r.path("large"))
	if err != nil {
		t.Fatal(err)
	}
	for range 192 {
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range files { // each page stays in the journal until a checkpoint
		if _, err := f.WriteAt(data[:4096], int64(rng.IntN(40_000))*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	show("after writing")

	const writers = 16
	if err := os.Mkdir(r.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return filepath.Join(r.mount, "d", fmt.Sprint("file", i)) }
	inParallel(t, writers, files, func(i int) error { return os.WriteFile(name(i), data[:1000+i%3000], 0o644) })
	show("after creating")
	inParallel(t, writers, files, func(i int) error { return os.Chmod(name((i*7919)%files), 0o600) })
	inParallel(t, writers, 256, func(i int) error { return os.WriteFile(r.path(fmt.Sprint("big", i%32)), data, 0o644) })
	inParallel(t, writers, files, func(i int) error { return os.Remove(name(i)) })
	show("at the end")

	st, err := r.Status(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for what, pid := range map[string]int{"worker": pid, "supervisor": r.cmd.Process.Pid, "key agent": st.KeyAgentPID} {
		if pid == 0 {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
			continue // a key agent ends after each use
		}
		// The race detector's own memory is in it.
		if peak := statusOf(t, pid)["VmHWM"]; peak > memoryLimit && !race.Detector {
			t.Errorf("%s: at most %d MiB resident, want %d", what, peak, memoryLimit)
		}
	}
	if r.workerPID() != pid {
		t.Error("the worker was replaced")
	}
}

// inParallel calls fn with 0 to n-1, from several goroutines.
func inParallel(t *testing.T, goroutines, n int, fn func(i int) error) {
	t.Helper()
	errs := make(chan error, goroutines)
	for g := range goroutines {
		go func() {
			for i := g; i < n; i += goroutines {
				if err := fn(i); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range goroutines {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

// leakRounds is how often TestLeaks does the same between two counts.
const leakRounds = 6

// TestLeaks: writing, reading back and deleting a tree leaves neither descriptors
// nor goroutines behind, in the worker or the supervisor.
func TestLeaks(t *testing.T) {
	r := newRig(t)
	content := bytes.Repeat([]byte("leak"), 20_000)
	round := func() {
		dir := r.path("round")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		name := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
		inParallel(t, 8, 200, func(i int) error { return os.WriteFile(name(i), content[:i*400], 0o644) })
		inParallel(t, 8, 200, func(i int) error {
			got, err := os.ReadFile(name(i))
			if err == nil && !bytes.Equal(got, content[:i*400]) {
				err = fmt.Errorf("file %d has other content", i)
			}
			return err
		})
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	// What is leaked grows each time. The readers of requests, which wait for more
	// once started, grow until there are 32 of them.
	before := countResources(t, r)
	for range 16 {
		for range leakRounds {
			round()
		}
		after := before
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			after = countResources(t, r)
			if !after.grownFrom(before) {
				return
			}
		}
		t.Logf("%+v, and %d rounds later %+v", before, leakRounds, after)
		before = after
	}
	t.Error("descriptors or goroutines grew each time")
}

// resources counts what two processes hold.
type resources struct {
	workerFiles, supervisorFiles, worker, supervisor int // descriptors; goroutines
}

// grownFrom reports whether there is more of something than before, by more than
// what comes and goes.
func (r resources) grownFrom(before resources) bool {
	const comesAndGoes = leakRounds / 2
	return r.workerFiles > before.workerFiles+comesAndGoes || r.supervisorFiles > before.supervisorFiles+comesAndGoes ||
		r.worker > before.worker+comesAndGoes || r.supervisor > before.supervisor+comesAndGoes
}

// countResources counts those of the rig's worker and supervisor.
func countResources(t *testing.T, r *rig) resources {
	t.Helper()
	files := func(pid int) int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		st, err := r.Status(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := st.Accounts[0].Volumes[0].Goroutines; n > 0 { // 0: it was too busy to tell
			return resources{
				workerFiles: files(r.workerPID()), supervisorFiles: files(r.cmd.Process.Pid),
				worker: n, supervisor: st.Goroutines,
			}
		}
	}
	t.Fatal("the worker did not tell how many goroutines it has")
	return resources{}
}
