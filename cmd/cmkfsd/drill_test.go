package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/drill"
	"cmkfs/drill/report"
)

// drillTime is how long one drill may take on a machine that is very busy.
const drillTime = 4 * time.Minute

// runDrills runs a drill command of the host and returns the reports it prints.
func runDrills(t *testing.T, env []string, args ...string) ([]report.Report, int, string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "cmkfsd"), append([]string{"drill", "run", "-o", "json"}, args...)...)
	var errs strings.Builder
	cmd.Env, cmd.Stderr, cmd.WaitDelay = env, &errs, time.Second
	limit := time.AfterFunc(drillTime*time.Duration(1+len(args)), func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer limit.Stop()
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	var reports []report.Report
	if err := json.Unmarshal(out, &reports); err != nil {
		t.Fatalf("%v: exit code %d\n%s\n%s", err, cmd.ProcessState.ExitCode(), out, errs.String())
	}
	return reports, cmd.ProcessState.ExitCode(), errs.String()
}

// passed wants reports of drills that passed and saw something.
func passed(t *testing.T, reports []report.Report, exit int, log string) {
	t.Helper()
	for _, r := range reports {
		if !r.Passed || r.Lost != 0 || r.Plaintext != 0 || r.Acknowledged < 100 || len(r.Samples) < 10 || len(r.Phases) != 4 || len(r.Expectations) < 6 {
			t.Errorf("%s: %s: %+v\n%s", r.Drill, r.Failure, r.Expectations, log)
		}
	}
	if exit != 0 {
		t.Errorf("exit code %d", exit)
	}
}

// TestRun_Spine runs a drill of each outcome for real; with CMKFS_DRILLS=all it
// runs all of them, and what they leave behind is nothing.
func TestRun_Spine(t *testing.T) {
	t.Parallel()
	names := []string{"key-disabled", "worker-killed-online", "supervisor-killed-suspending"}
	if os.Getenv("CMKFS_DRILLS") == "all" {
		names = []string{"all"}
	}
	tmp := shortDir(t)
	watchDrills(t, tmp)
	env := append(os.Environ(), "TMPDIR="+tmp)
	reports, exit, log := runDrills(t, env, append(names, "--seed", "11", "--report", filepath.Join(tmp, "report"))...)
	passed(t, reports, exit, log)
	want := len(names)
	if names[0] == "all" {
		want = len(drill.Catalogue())
	}
	if len(reports) != want || reports[0].Seed != 11 || reports[0].Source != "Microsoft.KeyVault" {
		t.Errorf("%d reports, want %d: %+v", len(reports), want, reports)
	}
	files, err := filepath.Glob(filepath.Join(tmp, "report", "*"))
	if err != nil || len(files) != want+1 {
		t.Errorf("the report's folder has %q, %v", files, err)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "cmkfs-drill*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// shortDir returns a temporary directory that has room below it for the paths of a
// daemon's sockets, which must be short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestRun_Broken: each thing that can be broken on purpose is noticed by a drill
// that really runs; with CMKFS_DRILLS=all by every drill.
func TestRun_Broken(t *testing.T) {
	t.Parallel()
	names := map[string]string{"no-fault": "worker-killed-online"} // which is suspended instead
	for _, b := range drill.Breaks {
		name := names[string(b)]
		switch {
		case os.Getenv("CMKFS_DRILLS") == "all":
			name = "all"
		case name == "":
			name = "suspend-and-restore"
		}
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			tmp := shortDir(t)
			watchDrills(t, tmp)
			reports, exit, log := runDrills(t, append(os.Environ(), "TMPDIR="+tmp), name, "--break", string(b))
			if exit != 4 || len(reports) == 0 {
				t.Errorf("exit code %d, %d reports\n%s", exit, len(reports), log)
			}
			for _, r := range reports {
				if len(r.Samples) < 10 {
					t.Errorf("%s hardly ran: %s", r.Drill, r.Failure)
				}
				stops := slices.ContainsFunc(r.Expectations, func(e report.Expectation) bool { return strings.HasPrefix(e.Text, "access is taken away") })
				if (b == drill.Leak || b == drill.LeftBehind || b == drill.NoReturn) && !stops {
					continue // nothing ends, so nothing can be left or has to come back
				}
				if r.Passed {
					t.Errorf("%s passed although there was %s", r.Drill, b)
				}
			}
		})
	}
}

// TestRun_RealVolume drills a user's own volume: through a proxy before the
// vault, and with the daemon killed. Everything that was changed is put back,
// also when the drill is killed in the middle.
func TestRun_RealVolume(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	tmp := shortDir(t)
	c.env = append(c.env, "TMPDIR="+tmp)
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop(c.state, syscall.SIGTERM)
		unmountBelow(filepath.Dir(mnt))
	})
	c.must(c.update("https://demo.vault.azure.net/keys/cmk", "--outage-grace", "7m")...)
	c.must("volume", "create", "--name", "v")
	c.must("volume", "mount", "v", mnt)
	write(t, filepath.Join(mnt, "mine"), []byte("not the drill's"))
	before := c.settings()
	asBefore := func(when string) {
		t.Helper()
		waitFor(t, func() bool { return c.account().State == string(account.StateOnline) && c.settings() == before })
		var entries []os.DirEntry
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			var err error
			if entries, err = os.ReadDir(mnt); err == nil && len(entries) == 1 && entries[0].Name() == "mine" {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s the volume has %v, %v", when, entries, err)
			}
		}
	}

	// Nobody typed its name.
	if _, errs, exit := c.run("drill", "run", "vault-refused", "--volume", "v"); exit != 2 || !strings.Contains(errs, "not drilled") {
		t.Errorf("exit code %d: %s", exit, errs)
	}
	for _, name := range []string{"key-disabled", "token-removed", "vault-dns-failing"} {
		if _, errs, exit := c.run("drill", "run", name, "--volume", "v", "--yes"); exit != 2 || !strings.Contains(errs, "cannot be done") {
			t.Errorf("%s: exit code %d: %s", name, exit, errs)
		}
	}
	asBefore("after refusals")

	reports, exit, log := runDrills(t, c.env, "vault-refused", "supervisor-killed-online", "--volume", "v", "--yes")
	passed(t, reports, exit, log)
	if len(reports) != 2 || reports[0].Volume != "a/v" {
		t.Errorf("%+v", reports)
	}
	asBefore("after drills")

	// The drill dies while the vault is cut off.
	cmd := exec.Command(filepath.Join(bin, "cmkfsd"), "drill", "run", "vault-refused", "--volume", "v", "--yes", "--duration", "10m")
	cmd.Env, cmd.WaitDelay = c.env, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.becomes(string(account.StateSuspended))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	asBefore("after the drill was killed")
	if left, _ := filepath.Glob(filepath.Join(tmp, "cmkfs-drill*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestRun_Killed: a drill of a place of its own that is killed leaves nothing,
// neither files nor processes.
func TestRun_Killed(t *testing.T) {
	t.Parallel()
	tmp := shortDir(t)
	cmd := exec.Command(filepath.Join(bin, "cmkfsd"), "drill", "run", "vault-slow")
	cmd.Env, cmd.WaitDelay = append(os.Environ(), "TMPDIR="+tmp), time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mounts := func() []string {
		found, _ := filepath.Glob(filepath.Join(tmp, "cmkfs-drills-*", "drill-*", "mnt", ".drill-*", "names"))
		return found
	}
	// It is at work, in a place that nobody else sees.
	waitFor(t, func() bool {
		found, _ := filepath.Glob(filepath.Join(tmp, "cmkfs-drills-*", "drill-*", "names"))
		return len(found) > 0
	})
	if found := mounts(); len(found) > 0 {
		t.Errorf("its mount is seen: %q", found)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitFor(t, func() bool { left, err := os.ReadDir(tmp); return err == nil && len(left) == 0 })
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if b, _ := os.ReadFile(path); strings.Contains(string(b), tmp) {
			t.Errorf("a process is left: %s", path)
		}
	}
}

// settings are what a drill may change about an account.
func (h *host) settings() string {
	h.t.Helper()
	var v struct {
		Encryption json.RawMessage
		Policy     json.RawMessage
	}
	if err := json.Unmarshal([]byte(h.must("account", "show", "-o", "json")), &v); err != nil {
		h.t.Fatal(err)
	}
	return string(v.Encryption) + string(v.Policy)
}
