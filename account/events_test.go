package account_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
	l, err := d.OpenEvents("a")
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
		"edited":   bytes.Replace(whole, []byte("one"), []byte("eno"), 1),
		"removed":  bytes.Join([][]byte{lines[0], lines[2]}, nil),
		"swapped":  bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil),
		"beheaded": bytes.Join(lines[1:], nil),
		"garbage":  append([]byte("?\n"), whole...),
	} {
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		var c *account.ChainError
		if _, err := readEvents(d, 0); !errors.As(err, &c) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
