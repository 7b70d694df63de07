package fs_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"cmkfs/fs"

	"golang.org/x/sys/unix"
)

// One reader is enough when requests come one at a time and soon, and not when
// two came together.
func TestReaders_Alone(t *testing.T) {
	const soon, late = 20 * time.Microsecond, 5 * time.Millisecond
	var p fs.Pace
	steps := []struct {
		what    string
		n       int
		company bool
		after   time.Duration
		alone   bool
	}{
		{"nothing yet", 0, false, 0, false},
		{"late ones", 100, false, late, false},
		{"a few soon", 10, false, soon, false},
		{"more", 100, false, soon, true},
		{"one pause", 1, false, late, true},
		{"another", 2, false, late, false},
		{"soon again", 100, false, soon, true},
		{"two together", 1, true, soon, false},
		{"soon, but not for long enough", 50, false, soon, false},
		{"long enough", 100, false, soon, true},
		{"much together", 1000, true, soon, false},
		{"long enough", 100, false, soon, true},
	}
	for i, s := range steps {
		if p.Note(s.n, s.company, s.after); p.Alone() != s.alone {
			t.Errorf("step %d, %s: alone %v, want %v", i, s.what, !s.alone, s.alone)
		}
	}
	for range 1000 { // a pause after every second request: looking would never find one
		if p.Note(1, false, soon); p.Alone() {
			p.Note(2, false, late)
		} else {
			p.Note(1, false, late)
		}
	}
	if p.Note(1, false, soon); p.Alone() {
		t.Error("alone although every second request comes late")
	}
}

// A request that is kept by the volume keeps no other one, also when it was read by
// the only reader.
func TestServer_LoneReader_Kept(t *testing.T) {
	r := newRig(t, "mem:block", fs.MountConfig{AllowOther: true})
	m := startMapper(t, r.path("f0"))
	for round := range 20 {
		for i := range 200 {
			if _, err := os.Lstat(r.path("none" + itoa(round) + "-" + itoa(i))); !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if round == 10 {
			m.send(t, "pread 0")
			time.Sleep(20 * time.Millisecond)
		}
	}
	if d := r.suspend(5*time.Second, unix.EKEYEXPIRED); d.Overdue == 0 {
		t.Errorf("drained %+v", d)
	}
	if got := m.ask(t, ""); got != unix.EKEYEXPIRED.Error() {
		t.Errorf("the read that hung: %q", got)
	}
}
