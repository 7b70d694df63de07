package supervisor_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"cmkfs/drill/apps"
	"cmkfs/supervisor/api"
)

// TestApps_Crashes has databases commit on a mount while every process is
// killed, or the power of the state directory's disk is cut. What they were told
// is committed is there afterwards, and their own checks find nothing.
// CMKFS_APP_CRASHES says how often; with it, PostgreSQL takes part.
func TestApps_Crashes(t *testing.T) {
	crashes, _ := strconv.Atoi(os.Getenv("CMKFS_APP_CRASHES"))
	for _, app := range []struct {
		name string
		long bool
		make func(dir, logs string) (*apps.App, error)
	}{
		{"SQLite", false, func(dir, _ string) (*apps.App, error) { return apps.SQLite(dir, "delete"), nil }},
		{"SQLite with a log", false, func(dir, _ string) (*apps.App, error) { return apps.SQLite(dir, "wal"), nil }},
		{"PostgreSQL", true, apps.Postgres},
	} {
		if app.long && crashes == 0 {
			continue
		}
		t.Run(app.name, func(t *testing.T) {
			for n := range max(2, crashes) {
				appCrash(t, app.make, n%2 == 0)
				if t.Failed() {
					t.Fatalf("crash %d", n)
				}
			}
		})
	}
}

// appCrash lets an application work in a new volume until a crash, and looks
// what it finds afterwards.
func appCrash(t *testing.T, make func(dir, logs string) (*apps.App, error), cut bool) {
	r := newPowered(t)
	logs := t.TempDir()
	for _, dir := range []string{filepath.Dir(r.mount), filepath.Dir(filepath.Dir(r.mount)), logs} {
		if err := os.Chmod(dir, 0o711); err != nil { // the way of a user who is not root
			t.Fatal(err)
		}
	}
	a, err := make(r.mount, logs)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	defer a.Stop()
	eventually(t, "the application has done some work", func() bool { done, _ := a.Counts(); return done >= 2 })
	time.Sleep(rand.N(time.Second))
	if cut {
		r.cut()
	} else {
		r.killAll()
	}
	a.Stop()
	a.End(r.ctx)
	r.again(cut)
	if bad := a.Verify(r.ctx); len(bad) > 0 {
		t.Errorf("power cut %v: %q", cut, bad)
	}
	done, failed := a.Counts()
	t.Logf("power cut %v: %d pieces of work done, %d failed", cut, done, failed)
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Error(err)
	}
	r.checkVolume()
	r.stop()
}
