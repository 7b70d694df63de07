package supervisor_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor/api"
)

// addSwap gives the host a swap device of the test's own for as long as it runs,
// and returns the file that is swapped to.
func addSwap(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "swap")
	if err := os.WriteFile(file, make([]byte, 256<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	device := runTool(t, "losetup", "-f", "--show", file)
	undo := cleaner(t, "unswap", device)
	t.Cleanup(func() {
		unswap(device)
		undo.Close()
	})
	runTool(t, "mkswap", device)
	runTool(t, "swapon", device)
	return file
}

// unswapLater is the process that does it if the test cannot.
func unswapLater(device string) {
	untilGone(3 * time.Minute)
	unswap(device)
}

// unswap ends swapping to a device. One that is gone needs nothing.
func unswap(device string) {
	if path, err := unix.BytePtrFromString(device); err == nil {
		_, _, _ = unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0)
	}
	_ = exec.Command("losetup", "-d", device).Run()
}

// pageOut has the kernel swap out what it may of a process's memory. One that has
// ended has none.
func pageOut(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); err != nil {
			t.Fatal(err)
		}
		// A locked part is an error, and the kernel does not go on behind it.
		part := [2]uintptr{from, to - from}
		_, _, _ = unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(fd), uintptr(unsafe.Pointer(&part)), 1, unix.MADV_PAGEOUT, 0, 0)
	}
}

// memoryOf returns a line of a process's status, KiB; ok is false if it has ended.
func memoryOf(t *testing.T, pid int, field string) (kib int, ok bool) {
	t.Helper()
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n, true
		}
	}
	return 0, false
}

// staysInMemory wants nothing of a process to be swapped. It reports whether the
// process was there to see it.
func staysInMemory(t *testing.T, pid int) bool {
	t.Helper()
	locked, _ := memoryOf(t, pid, "VmLck")
	pageOut(t, pid)
	swapped, ok := memoryOf(t, pid, "VmSwap")
	if ok && locked == 0 {
		t.Errorf("process %d locks no memory", pid)
	}
	if ok && swapped != 0 {
		t.Errorf("%d KiB of process %d are swapped", swapped, pid)
	}
	return ok
}

// TestProcesses_MemoryIsLocked: where there is swap, nothing of a worker or a key
// agent gets there, however much the kernel wants their memory; and the device has
// neither keys nor contents nor names.
func TestProcesses_MemoryIsLocked(t *testing.T) {
	device := addSwap(t)
	r := newRig(t)
	random := make([]byte, 24)
	rand.Read(random)
	canary := hex.EncodeToString(random)
	if err := os.WriteFile(r.path(canary), bytes.Repeat([]byte(canary), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	aek, vek := volumeKeys(t, r.dir)
	secrets := map[string][]byte{"contents or names": []byte(canary), "account key": aek[:], "volume key": vek[:]}

	if !staysInMemory(t, r.workerPID()) {
		t.Fatal("the worker has ended")
	}
	// An agent is replaced when it has handled keys.
	eventually(t, "a key agent was looked at", func() bool {
		agents := children(t, r.cmd.Process.Pid, "key-agent")
		return len(agents) > 0 && staysInMemory(t, agents[0])
	})
	// The same has an effect on a process that locks nothing.
	other := exec.Command("/proc/self/exe", "unswap", "/nowhere")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the control is swapped", func() bool {
		pageOut(t, other.Process.Pid)
		n, _ := memoryOf(t, other.Process.Pid, "VmSwap")
		return n > 0
	})
	in.Close()
	_ = other.Wait()
	// The supervisor and the keeper have no secrets to lock.
	for _, pid := range []int{r.cmd.Process.Pid, r.keeper()} {
		pageOut(t, pid)
	}
	if v, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil || v.State != api.VolumeSuspended {
		t.Fatalf("%+v %v", v, err)
	}
	b, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(b, []byte{0}) == len(b) {
		t.Error("nothing was written to the device: the test would see nothing")
	}
	found := map[string]bool{}
	search(b, secrets, found)
	if len(found) > 0 {
		t.Errorf("the swap device has %v", names(found))
	}
}
