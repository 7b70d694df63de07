package account_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cmkfs/account"
)

// fuzzDir makes a state directory with an account a and its volume v.
func fuzzDir(f *testing.F) (d *account.Dir, folder string) {
	f.Helper()
	d, err := account.Create(filepath.Join(f.TempDir(), "state"))
	if err != nil {
		f.Fatal(err)
	}
	if err := d.CreateAccount(newAccount("a")); err != nil {
		f.Fatal(err)
	}
	if err := os.MkdirAll(d.VolumeDir("a", "v"), 0o700); err != nil {
		f.Fatal(err)
	}
	return d, filepath.Join(d.Path(), "accounts", "a")
}

// What is read as a record is written and read again as the same; what is not
// is refused with an error.
func FuzzRecords(f *testing.F) {
	d, folder := fuzzDir(f)
	read := map[string]func() (any, error){
		"account.json":          func() (any, error) { return d.Account("a") },
		"lease.json":            func() (any, error) { return d.LoadLease("a") },
		"volumes/v/volume.json": func() (any, error) { return d.Volume("a", "v") },
	}
	sound, err := os.ReadFile(filepath.Join(folder, "account.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		if read[name] == nil {
			return
		}
		put(t, folder, "account.json", sound) // without it there is no volume
		put(t, folder, name, b)
		v, err := read[name]()
		if err != nil {
			return
		}
		first, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%s was read and cannot be written: %v", name, err)
		}
		put(t, folder, name, first)
		again, err := read[name]()
		if err != nil {
			t.Fatalf("%s was written and cannot be read: %v", name, err)
		}
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became\n%s, then\n%s, %v", name, first, second, err)
		}
	})
}

// Whatever has become of an audit log, it is read without another error than
// one about its chain, goes on with a new event, and shows it.
func FuzzEvents(f *testing.F) {
	d, folder := fuzzDir(f)
	f.Fuzz(func(t *testing.T, log, head []byte) {
		put(t, folder, "events.jsonl", log)
		put(t, folder, "events.head", head)
		var last uint64
		read := func() (kinds []string) {
			err := d.Events("a", 0, func(e account.Event) error {
				kinds, last = append(kinds, e.Kind), e.Seq
				return nil
			})
			var chain *account.ChainError
			if err != nil && !errors.As(err, &chain) {
				t.Fatal(err)
			}
			return kinds
		}
		if n, lines := len(read()), bytes.Count(log, []byte("\n")); n > lines {
			t.Errorf("%d events in %d lines", n, lines)
		}
		l, err := d.OpenEvents("a", 0)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Append(account.Event{Kind: "new"}); err != nil {
			t.Fatal(err)
		}
		before := last
		if kinds := read(); len(kinds) == 0 || kinds[len(kinds)-1] != "new" || last <= before && before > 0 {
			t.Errorf("the new event has number %d after %d; events %q", last, before, kinds)
		}
	})
}

func put(t *testing.T, folder, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}
