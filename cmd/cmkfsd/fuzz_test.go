package main_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	main "cmkfs/cmd/cmkfsd"
)

// A configuration file is one JSON object or refused.
func FuzzConfig(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if main.LoadConfig(b) == nil && (!json.Valid(b) || !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{"))) {
			t.Errorf("%q was taken", b)
		}
	})
}

// A size is at least a byte, and a moment has a year that can be written.
func FuzzFlags(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := main.ParseSize(s); err == nil && n == 0 {
			t.Errorf("%q is a size of 0", s)
		}
		if at, err := main.ParseSince(s); err == nil {
			if _, err := at.MarshalJSON(); err != nil || at.After(time.Now().AddDate(9999, 0, 0)) {
				t.Errorf("%q is %v", s, at)
			}
		}
	})
}
