package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	main "cmkfs/cmd/cmkfsd"
)

// TestDocumentMap: every test, command and flag that docs/document-map.md names
// exists, and every row says what covers it.
func TestDocumentMap(t *testing.T) {
	b, err := os.ReadFile("../../docs/document-map.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	parser, err := kong.New(&main.Grammar{})
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]map[string]bool{} // by command
	every := map[string]bool{}
	for _, leaf := range parser.Model.Leaves(true) {
		path := strings.TrimSpace(strings.Split(leaf.Path(), "<")[0])
		flags[path] = map[string]bool{}
		for _, group := range leaf.AllFlags(false) {
			for _, f := range group {
				flags[path]["--"+f.Name], every["--"+f.Name] = true, true
			}
		}
	}

	span, test := regexp.MustCompile("`[^`]+`"), regexp.MustCompile("`(Test\\w+|[\\w-]+\\.txtar)`")
	rows := 0
	for i, line := range strings.Split(string(b), "\n") {
		for _, m := range test.FindAllStringSubmatch(line, -1) {
			if !tests[m[1]] {
				t.Errorf("line %d: there is no test %s", i+1, m[1])
			}
		}
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 3 || cells[0] == "| the document" || cells[0] == "| question" {
			if strings.HasPrefix(line, "| ") && len(cells) != 3 {
				t.Errorf("line %d has %d cells: %s", i+1, len(cells), line)
			}
			continue
		}
		rows++
		here, covered := cells[1], strings.TrimSuffix(cells[2], " |")
		switch meaningless := strings.HasPrefix(here, "no meaning"); {
		case covered == "–" && !meaningless:
			t.Errorf("line %d: no test covers it: %s", i+1, line)
		case covered != "–" && !test.MatchString(covered):
			t.Errorf("line %d: %q names no test", i+1, covered)
		}
		for _, s := range span.FindAllString(here, -1) {
			checkCommand(t, i+1, strings.Trim(s, "`"), flags, every)
		}
	}
	if rows < 100 {
		t.Errorf("only %d rows", rows)
	}
}

// checkCommand wants a command of ours to exist with its flags, and flags alone
// to be some command's.
func checkCommand(t *testing.T, line int, s string, flags map[string]map[string]bool, every map[string]bool) {
	t.Helper()
	words := strings.Fields(s)
	known := every
	if words[0] == "cmkfsd" {
		path := []string{}
		for _, w := range words[1:] {
			if strings.HasPrefix(w, "-") {
				break
			}
			path = append(path, w)
		}
		if len(path) == 0 {
			return // the program
		}
		if known = flags[strings.Join(path, " ")]; known == nil {
			t.Errorf("line %d: there is no command %s", line, s)
			return
		}
	} else if !strings.HasPrefix(words[0], "--") {
		return
	}
	for _, w := range words {
		if strings.HasPrefix(w, "--") && !known[w] {
			t.Errorf("line %d: there is no flag %s in %s", line, w, s)
		}
	}
}

// testNames are the names of all test functions of the module, and the files of
// the scripts.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return filepath.SkipDir
		case strings.HasSuffix(path, "cmd/cmkfsd/testdata/script/"+d.Name()):
			names[d.Name()] = true
		case strings.HasSuffix(path, "_test.go"):
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range function.FindAllSubmatch(b, -1) {
				names[string(m[1])] = true
			}
		}
		return nil
	})
	if err != nil || len(names) < 100 {
		t.Fatal(len(names), err)
	}
	return names
}
