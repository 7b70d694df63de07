package main_test

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	main "cmkfs/cmd/cmkfsd"
)

// TestHelp_EveryCommandHasAnExample walks the grammar: every command explains
// itself with an example, and docs/commands.md has it.
func TestHelp_EveryCommandHasAnExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&main.Grammar{})
	if err != nil {
		t.Fatal(err)
	}
	leaves := parser.Model.Leaves(true)
	if len(leaves) < 15 {
		t.Fatalf("only %d commands found", len(leaves))
	}
	for _, leaf := range leaves {
		path := strings.TrimSpace(strings.Split(leaf.Path(), "<")[0])
		var out, errs bytes.Buffer
		args := append(append([]string{"cmkfsd"}, strings.Fields(path)...), "--help")
		if exit := main.Run(context.Background(), args, &out, &errs); exit != 0 {
			t.Errorf("%s --help: exit code %d: %s", path, exit, errs.String())
		}
		if !strings.Contains(out.String(), "Example") || !strings.Contains(out.String(), "cmkfsd "+path) {
			t.Errorf("%s --help has no example:\n%s", path, out.String())
		}
		if !strings.Contains(string(doc), "$ cmkfsd "+path) {
			t.Errorf("docs/commands.md has no example of %s", path)
		}
	}
}

// TestExitCodes_Document: every exit code that an error has is in the table of
// docs/commands.md.
func TestExitCodes_Document(t *testing.T) {
	doc, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	for code, exit := range main.Exits() {
		if !strings.Contains(string(doc), "\n| "+strconv.Itoa(exit)+" | ") {
			t.Errorf("exit code %d of %q is not documented", exit, code)
		}
	}
}
