package workload_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmkfs/drill/workload"
)

// TestMain lets the test's program be a process of the work.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "work" {
		workload.Main(os.Args[2])
	}
	os.Exit(m.Run())
}

// work has a crew work on a plain folder for a moment.
func work(t *testing.T, lose bool) (dir string, c *workload.Crew) {
	t.Helper()
	dir, ledgers := t.TempDir(), t.TempDir()
	c, err := workload.Start([]string{"/proc/self/exe", "work"}, dir, ledgers, 7, false, lose)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	enough := int64(2000)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if n := c.Total(); n.Reads > enough && n.Writes > enough && n.Metadata > enough {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("only %+v", c.Total())
		}
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := c.Total(); len(n.Errors) > 0 || !n.Ended && n.Longest == 0 {
		t.Errorf("%+v", n)
	}
	return dir, c
}

func verdict(t *testing.T, c *workload.Crew) workload.Verdict {
	t.Helper()
	v, err := c.Verify()
	if err != nil {
		t.Fatal(err)
	}
	if v.Acknowledged < 1000 || v.Places < 200 {
		t.Errorf("only %+v", v)
	}
	return v
}

// TestCrew_Verify_Notices: what a plain folder has is what was acknowledged, and
// each kind of damage is noticed.
func TestCrew_Verify_Notices(t *testing.T) {
	dir, c := work(t, false)
	if v := verdict(t, c); v.Lost != 0 {
		t.Fatalf("%+v", v)
	}
	change := func(file string, f func(string) error) func() error {
		return func() error {
			path := filepath.Join(dir, file)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			t.Cleanup(func() {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Error(err)
				}
			})
			return f(path)
		}
	}
	flip := func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		return os.WriteFile(path, b, 0o600)
	}
	cut := func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, st.Size()/2)
	}
	for name, damage := range map[string]func() error{
		"a bit of a block":         change("blocks/f1", flip),
		"half a file":              change("blocks/f2", cut),
		"a file that is gone":      change("blocks/f0", os.Remove),
		"a bit of what was mapped": change("mapping/m0", flip),
		"the end of a file":        change("appends/a0", cut),
		"a bit of what was added":  change("appends/a1", flip),
		"a file that was replaced": change("appends/r1", os.Remove),
		"a name that is gone":      func() error { return removeOne(t, filepath.Join(dir, "names")) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if v := verdict(t, c); v.Lost == 0 || len(v.Wrong) == 0 {
				t.Errorf("not noticed: %+v", v)
			}
		})
	}
}

// removeOne removes a file of a folder.
func removeOne(t *testing.T, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			return os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return fmt.Errorf("%s has no file", dir)
}

// TestCrew_LostWrite: one write that was acknowledged and never done.
func TestCrew_LostWrite(t *testing.T) {
	_, c := work(t, true)
	if v := verdict(t, c); v.Lost == 0 || !strings.Contains(strings.Join(v.Wrong, " "), "f") {
		t.Errorf("not noticed: %+v", v)
	}
}
