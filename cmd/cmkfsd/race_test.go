package main_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cmkfs/internal/race"
)

// A daemon with a data race goes on, and so does a worker or a key agent, which
// is replaced if it ends: only the daemon's log shows it. raced has what was
// found in the logs of all daemons, and fails the package.
var raced races

type races struct {
	mu      sync.Mutex
	reports []string
}

// lookInto looks into a log, which may be none.
func (r *races) lookInto(path string) {
	if f, err := os.Open(path); err == nil {
		r.read(f)
	}
}

// read looks into a log and closes it.
func (r *races) read(f *os.File) {
	defer f.Close()
	b, err := io.ReadAll(f)
	report := race.Report(b)
	if err == nil && report == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports = append(r.reports, fmt.Sprintf("%s: %v\n%s", f.Name(), err, report))
}

// failed says whether there was a race, and shows it.
func (r *races) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, report := range r.reports {
		fmt.Fprintln(os.Stderr, report)
	}
	return len(r.reports) > 0
}

// watchDrills opens the logs of the daemons of the drills whose temporary
// directory is tmp, and looks into them when the test ends: the drills remove
// them.
func watchDrills(t *testing.T, tmp string) {
	t.Helper()
	if !race.Detector {
		return
	}
	logs := map[string]*os.File{}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			found, _ := filepath.Glob(filepath.Join(tmp, "cmkfs-drills-*", "drill-*", "daemon.log"))
			for _, path := range found {
				if logs[path] != nil {
					continue
				}
				if f, err := os.Open(path); err == nil {
					logs[path] = f
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(ended)
		<-done
		if len(logs) == 0 {
			t.Error("no log of a drill was seen")
		}
		for _, f := range logs {
			raced.read(f)
		}
	})
}
