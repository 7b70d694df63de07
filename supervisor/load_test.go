package supervisor_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/internal/loadtest"
)

// TestLoad_Quiet: a volume to which nothing is done stands the proof.
func TestLoad_Quiet(t *testing.T) {
	r := newRig(t)
	loadtest.Prove(t, func(int) loadtest.Report {
		return loadtest.Measure(t, r.mount, func() {})
	})
}

// TestLoad_NoticesFailures: the proof would be worth nothing if it did not see
// a suspension.
func TestLoad_NoticesFailures(t *testing.T) {
	r := newRig(t)
	report := loadtest.Measure(t, r.mount, func() {
		if _, err := r.SuspendVolume(r.ctx, "acct", "vol"); err != nil {
			t.Error(err)
		}
		if _, err := r.RestoreVolume(r.ctx, "acct", "vol"); err != nil {
			t.Error(err)
		}
	})
	if err := report.Err(); !errnoIs(err, unix.ENOKEY) {
		t.Errorf("%v; %v", err, report)
	}
}

// TestLoad_NoticesSlowness: nor if it did not see a worker that stands still.
func TestLoad_NoticesSlowness(t *testing.T) {
	r := newRig(t)
	pid := r.workerPID()
	report := loadtest.Measure(t, r.mount, func() {
		_ = unix.Kill(pid, unix.SIGSTOP)
		time.Sleep(2 * time.Second) // far above what a loaded machine does by itself
		_ = unix.Kill(pid, unix.SIGCONT)
	})
	if err := report.Err(); !errors.Is(err, loadtest.ErrSlow) || !strings.Contains(err.Error(), "slowest") {
		t.Errorf("%v; %v", err, report)
	}
}
