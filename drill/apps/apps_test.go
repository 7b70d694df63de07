package apps_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmkfs/drill/apps"
)

// TestApps_Verify_Notices: the applications find everything on a plain folder,
// and notice when something they had stored is gone.
func TestApps_Verify_Notices(t *testing.T) {
	dir := t.TempDir()
	all, err := apps.Installed(dir, t.TempDir(), false)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d applications, want SQLite and git: %v", len(all), err)
	}
	damage := map[string][]string{
		"SQLite": {"sqlite3", filepath.Join(dir, "sqlite", "db"), "delete from t where n = 3"},
		"git":    {"git", "-C", filepath.Join(dir, "git"), "reset", "-q", "--hard", "HEAD~2"},
	}
	for _, a := range all {
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if done, failed := a.Counts(); done > 5 || failed > 0 || time.Now().After(end) {
				break
			}
		}
		a.Stop()
		if done, failed := a.Counts(); done < 5 || failed > 0 {
			t.Errorf("%s: %d done, %d failed", a.Name, done, failed)
		}
		if bad := a.Verify(t.Context()); len(bad) > 0 {
			t.Errorf("%q", bad)
		}
		cmd := exec.Command(damage[a.Name][0], damage[a.Name][1:]...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if bad := a.Verify(t.Context()); len(bad) != 1 || !strings.Contains(bad[0], "missing") {
			t.Errorf("%s notices %q", a.Name, bad)
		}
	}
}
