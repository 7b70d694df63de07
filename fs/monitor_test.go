package fs_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cmkfs/fs"
)

// TestSlowMonitor finds that of a worker's threads the one that sleeps again and
// again while the others serve has got coarser timers. (Those that it begins
// inherit them.) A change of Go's runtime by which it is another one is found here.
func TestSlowMonitor(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	pid := r.worker.cmd.Process.Pid
	must(t, fs.SlowMonitor(pid))

	done := make(chan struct{})
	defer func() { <-done }()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = os.Lstat(fmt.Sprintf("%s/none%d", r.dir, i))
			}
		}
	}()

	sleeps := map[string]int{} // by thread
	for range 500 {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		must(t, err)
		for _, dir := range threads {
			where, _ := os.ReadFile(dir + "/wchan") // it may have ended
			if strings.Contains(string(where), "nanosleep") {
				sleeps[filepath.Base(dir)]++
			}
		}
		time.Sleep(time.Millisecond)
	}
	if len(sleeps) == 0 {
		t.Fatal("no thread was seen to sleep, so this test says nothing")
	}
	most := slices.MaxFunc(slices.Collect(maps.Keys(sleeps)), func(a, b string) int { return sleeps[a] - sleeps[b] })
	if slackOf(t, most) != "250000" {
		t.Errorf("the timers of thread %s, which sleeps most often (%v), are exact to %s ns, want 250000", most, sleeps, slackOf(t, most))
	}
	if main := strconv.Itoa(pid); slackOf(t, main) != "50000" {
		t.Errorf("the main thread's timers are exact to %s ns, want what Linux gives, 50000", slackOf(t, main))
	}
}

func slackOf(t *testing.T, thread string) string {
	slack, err := os.ReadFile("/proc/" + thread + "/timerslack_ns")
	must(t, err)
	return strings.TrimSpace(string(slack))
}

func TestSlowMonitor_NoProcess(t *testing.T) {
	if err := fs.SlowMonitor(1 << 30); err == nil {
		t.Error("no error for a process that is not there")
	}
}
