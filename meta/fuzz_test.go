package meta_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"cmkfs/meta"
)

// corpus checks that the committed seeds of a fuzz target are there: without
// them it would pass on nothing.
func corpus(f *testing.F, target string, prefixes ...string) {
	f.Helper()
	files, err := os.ReadDir("testdata/fuzz/" + target)
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range prefixes {
		if !slices.ContainsFunc(files, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), p) }) {
			f.Errorf("no seed for %s", p)
		}
	}
}

// What a decoder accepts it encodes again to the same bytes; it never panics.
func FuzzDecoders(f *testing.F) {
	var kinds []string
	for kind := range meta.Decoders {
		kinds = append(kinds, kind)
	}
	corpus(f, "FuzzDecoders", kinds...)
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		decode := meta.Decoders[kind]
		if decode == nil {
			return
		}
		again, compare, err := decode(b)
		if err == nil && compare && !bytes.Equal(again, b) {
			t.Errorf("%s: %x became %x", kind, b, again)
		}
	})
}

// A damaged journal file gives a prefix of its operations or none, and no
// panic: its four pages hold operations 10 to 15 in three records, and markers.
func FuzzJournal(f *testing.F) {
	corpus(f, "FuzzJournal", "whole")
	whole, err := os.ReadFile("testdata/journal.bin")
	if err != nil {
		f.Fatal(err)
	}
	want, err := meta.ReadJournal(whole)
	if err != nil || !slices.Equal(want, []uint64{10, 11, 12, 13, 14, 15}) {
		f.Fatalf("the undamaged file has operations %v, %v", want, err)
	}
	f.Fuzz(func(t *testing.T, at uint16, patch []byte, cut uint16) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		b = b[:len(b)-int(cut)%len(b)]
		got, err := meta.ReadJournal(b)
		if err != nil {
			var version *meta.VersionError
			if got != nil || errors.As(err, &version) && version.Have == meta.FormatVersion {
				t.Errorf("refused with %v and %v", got, err)
			}
			return
		}
		if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Errorf("operations %v", got)
		}
	})
}
