package drill_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkfs/drill"
)

func TestSearchFiles(t *testing.T) {
	dir := t.TempDir()
	const text = "a canary of thirty-two characters"
	// Over the border of what is read at once.
	content := append(bytes.Repeat([]byte("x"), 1<<20-10), text...)
	for name, b := range map[string][]byte{"inside": content, "name " + text: nil, "none": []byte("nothing")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, searched, err := drill.SearchFiles(dir, text)
	if err != nil || searched != 3 || len(found) != 2 {
		t.Errorf("found %q in %d files, %v", found, searched, err)
	}
}

func TestSearchMemory(t *testing.T) {
	// Not a constant: that would be in the program.
	text := strings.Repeat(filepath.Base(t.TempDir()), 3) + "canary"
	found, searched, err := drill.SearchMemory(os.Getpid(), text)
	if err != nil || len(found) == 0 || searched < 1<<20 {
		t.Errorf("found %q in %d bytes, %v", found, searched, err)
	}
	if found, _, err := drill.SearchMemory(1<<30, text); err != nil || found != nil {
		t.Errorf("a process that is not there: %q, %v", found, err)
	}
}
