package probe_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cmkfs/drill/probe"
)

// TestMain lets the test's program be a probe.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "probe" {
		probe.Main(os.Args[2])
	}
	os.Exit(m.Run())
}

// TestRecord: a probe of a plain folder sees what it may, and what it may not
// any more.
func TestRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "probe")
	began := time.Now()
	r, err := probe.Start([]string{"/proc/self/exe", "probe"}, probe.Job{Dir: dir, Canary: "a canary"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	eventually := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("never: " + what)
			}
		}
	}
	eventually("every way works", func() bool { ok, _ := r.Working(began); return ok })
	var routes []string
	for _, s := range r.Slots() {
		if len(s.Errors) > 0 || s.OK != s.Tries && s.Waiting == 0 {
			t.Errorf("%+v", s)
		}
		if !slices.Contains(routes, s.Route) {
			routes = append(routes, s.Route)
		}
	}
	slices.Sort(routes)
	if want := slices.Sorted(slices.Values(probe.Routes)); !slices.Equal(routes, want) {
		t.Errorf("tried %q, want %q", routes, want)
	}

	// Paths end, descriptors and mappings do not.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	eventually("paths are not found", func() bool {
		for _, s := range r.Slots() {
			if s.Route == "open and read" && s.Errors["ENOENT"] > 0 {
				return true
			}
		}
		return false
	})
	eventually("descriptors still work", func() bool {
		for _, s := range r.Slots() {
			if s.Route == "mmap" && s.LastOK.After(gone) {
				return true
			}
		}
		return false
	})
	if ok, but := r.Working(gone); ok || but == "" {
		t.Error("it says that everything works")
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
}
