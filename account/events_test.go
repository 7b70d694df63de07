package account_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkfs/account"
)

func eventDir(t *testing.T) (*account.Dir, string) {
	t.Helper()
	d := newDir(t)
	if err := d.CreateAccount(newAccount("a")); err != nil {
		t.Fatal(err)
	}
	return d, filepath.Join(d.Path(), "accounts", "a", "events.jsonl")
}

func appendEvents(t *testing.T, d *account.Dir, kinds ...string) {
	t.Helper()
	l, err := d.OpenEvents("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, k := range kinds {
		if err := l.Append(account.Event{Kind: k}); err != nil {
			t.Fatal(err)
		}
	}
}

func readEvents(d *account.Dir, after uint64) ([]string, error) {
	var kinds []string
	err := d.Events("a", after, func(e account.Event) error {
		kinds = append(kinds, e.Kind)
		return nil
	})
	return kinds, err
}

func TestEventLog_Append_ContinuesAfterReopenAndTornLine(t *testing.T) {
	d, path := eventDir(t)
	if got, err := readEvents(d, 0); err != nil || len(got) != 0 {
		t.Fatalf("no log yet: %v %v", got, err)
	}
	appendEvents(t, d, "one", "two")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"kind":"to`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got, err := readEvents(d, 0); err != nil || len(got) != 2 {
		t.Fatalf("with a torn line: %v %v", got, err)
	}
	appendEvents(t, d, "three")
	if got, err := readEvents(d, 1); err != nil || len(got) != 2 || got[1] != "three" {
		t.Fatalf("after 1: %v %v", got, err)
	}
}

func TestDir_Events_ChangedLogIsReported(t *testing.T) {
	d, path := eventDir(t)
	appendEvents(t, d, "one", "two", "three")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for name, changed := range map[string][]byte{
		"edited":                bytes.Replace(whole, []byte("one"), []byte("eno"), 1),
		"removed":               bytes.Join([][]byte{lines[0], lines[2]}, nil),
		"swapped":               bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil),
		"beheaded":              bytes.Join(lines[1:], nil),
		"garbage":               append([]byte("?\n"), whole...),
		"its last line edited":  bytes.Replace(whole, []byte("three"), []byte("eerht"), 1),
		"its last line removed": bytes.Join(lines[:2], nil),
		"emptied":               nil,
	} {
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		var c *account.ChainError
		if _, err := readEvents(d, 0); !errors.As(err, &c) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var c *account.ChainError
	if _, err := readEvents(d, 0); !errors.As(err, &c) {
		t.Errorf("removed altogether: %v", err)
	}
}

// TestEventReader_Read_FollowsTheWriter reads while lines come one byte at a
// time, and over a torn line that the next daemon cuts off.
func TestEventReader_Read_FollowsTheWriter(t *testing.T) {
	d, path := eventDir(t)
	r, err := d.ReadEvents("a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	read := func() {
		t.Helper()
		if err := r.Read(func(e account.Event) error { got = append(got, e.Kind); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	read() // there is none yet
	appendEvents(t, d, "one", "two")
	read()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"kind":"torn`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	read()
	appendEvents(t, d, "three")
	read()
	if strings.Join(got, " ") != "one two three" {
		t.Error(got)
	}
}

// TestEventLog_Append_AllOrNothing: several events are one write.
func TestEventLog_Append_AllOrNothing(t *testing.T) {
	d, path := eventDir(t)
	l, err := d.OpenEvents("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(account.Event{Kind: "one"}, account.Event{Kind: "two"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := l.Append(account.Event{Kind: "three"}, account.Event{Kind: "four"}); err == nil {
		t.Error("appended to a closed log")
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("%v: %s", err, after)
	}
	if got, err := readEvents(d, 0); err != nil || len(got) != 2 {
		t.Errorf("%v %v", got, err)
	}
}

// TestEventLog_HeadMayLag: the head of an older moment is no complaint, and a
// damaged one neither.
func TestEventLog_HeadMayLag(t *testing.T) {
	d, path := eventDir(t)
	head := filepath.Join(filepath.Dir(path), "events.head")
	appendEvents(t, d, "one", "two")
	old, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	appendEvents(t, d, "three")
	for name, b := range map[string][]byte{"older": old, "empty": nil, "zeros": make([]byte, 1024), "garbage": []byte("?\n"), "half": old[:len(old)/2]} {
		if err := os.WriteFile(head, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readEvents(d, 0); err != nil || len(got) != 3 {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}
