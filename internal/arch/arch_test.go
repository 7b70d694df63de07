package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// module is the prefix of this module's import paths.
const module = "cmkfs/"

// allowance is one row of mayImport.
type allowance struct {
	pkg     string
	imports []string
	reason  string
}

// mayImport says which of our own packages each package may import. A row is
// for the folder and everything below it, and packages of one row may import
// each other. Imports of tests do not count.
var mayImport = []allowance{
	{"crypto", nil, "pure functions on bytes: everything may rest on it, it rests on nothing"},
	{"store", nil, "bytes by name: it must not know what they mean, so that another store can take its place"},
	{"meta", []string{"crypto", "store"}, "the volume is tested without a mount, a daemon or a key source"},
	{"fs", []string{"meta"}, "turns requests into calls of the volume; whatever else it needs it asks for by an interface of its own"},
	{"hsm", []string{"crypto"}, "key sources are told apart by their results, not by who asks; the platform key seals with crypto"},
	{"keyagent", []string{"hsm", "crypto"}, "sees keys of accounts and volumes, never a volume's directory"},
	{"account", []string{"hsm", "crypto"}, "records and the lease are decided without a process or a mount"},
	{"worker", []string{"fs", "meta", "store", "crypto"}, "holds one volume's key: nothing here may reach a network or a key source"},
	{"supervisor", []string{"account", "keyagent", "worker", "fs", "hsm"}, "never sees a key or a file name, so neither crypto, meta nor store"},
	{"drill/report", nil, "shows what a drill saw: it rests on nothing, so that a report can be shown again anywhere"},
	{"drill", []string{"drill/report", "account", "hsm", "supervisor"}, "rehearses outages from outside: it talks to the daemon, and looks at no volume's files but through a mount"},
	{"cmd", []string{"account", "crypto", "drill", "fs", "hsm", "keyagent", "meta", "store", "supervisor", "worker", "internal"}, "wires the parts together"},
	{"internal", []string{"account", "crypto", "fs", "hsm", "keyagent", "meta", "store", "supervisor", "worker"}, "test help and checks of the whole; only cmd imports it"},
	{"scripts/bench/ceiling", []string{"fs", "meta"}, "the adapter over an engine that does nothing: it replaces the volume, so it stays out of the programs"},
	{"scripts", nil, "drives the programs from outside, as a user would"},
}

// onlyImport says who alone may import an outside package, or what is below it.
var onlyImport = []struct {
	outside string
	by      []string
	reason  string
}{
	{"go.etcd.io/bbolt", []string{"meta"}, "its slices live as long as a transaction and its pages have no checksums: one package copes with both"},
	{"github.com/Azure/", []string{"hsm/azure"}, "the SDK's errors and retries are turned into ours in one place"},
	{"github.com/AzureAD/", []string{"hsm/azure"}, "as above"},
	{"github.com/miekg/pkcs11", []string{"hsm/pkcs11"}, "C code of vendors, loaded in the key agent only"},
	{"github.com/hanwen/go-fuse", []string{"fs", "scripts/bench/floor"}, "the kernel's protocol ends where the volume begins"},
	{"C", nil, "our own code stays free of C, so that it is memory-safe and builds everywhere"},
}

// neverImport says what a package must not import directly, or, with deep,
// not even through others.
var neverImport = []struct {
	pkg     string
	outside []string
	deep    bool
	reason  string
}{
	{"crypto", []string{"os", "net", "log", "context", "time", "syscall", "golang.org/x/sys"}, false,
		"functions on bytes do no I/O, keep no time and write no log (log/slog only for the redacted LogValue of a key)"},
	{"meta", []string{"github.com/hanwen/go-fuse", "net/http"}, true, "the volume's core is tested without a kernel and has no network"},
	{"store", []string{"github.com/hanwen/go-fuse", "net/http"}, true, "as above"},
	{"worker", []string{"net/http"}, true, "a worker has no network"},
	{"account", []string{"github.com/hanwen/go-fuse"}, true, "the control plane decides without a mount"},
}

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath, Name, Dir string
	Imports, Deps         []string
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		row := slices.IndexFunc(mayImport, func(r allowance) bool { return within(name, r.pkg) })
		if row < 0 {
			t.Errorf("%s has no row in mayImport: say what it may import, and why", name)
			continue
		}
		r := mayImport[row]
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module); ok && !within(ours, r.pkg) &&
				!slices.ContainsFunc(r.imports, func(a string) bool { return within(ours, a) }) {
				t.Errorf("%s imports %s: %s", name, ours, r.reason)
			}
			for _, rule := range onlyImport {
				if within(imp, rule.outside) && !slices.ContainsFunc(rule.by, func(a string) bool { return within(name, a) }) {
					t.Errorf("%s imports %s, which is for %v only: %s", name, imp, rule.by, rule.reason)
				}
			}
		}
		for _, rule := range neverImport {
			if !within(name, rule.pkg) {
				continue
			}
			reached := p.Imports
			if rule.deep {
				reached = p.Deps
			}
			for _, imp := range reached {
				if slices.ContainsFunc(rule.outside, func(o string) bool {
					return imp == o || strings.Contains(o, "/") && strings.Contains(o, ".") && within(imp, o)
				}) {
					t.Errorf("%s reaches %s: %s", name, imp, rule.reason)
				}
			}
		}
	}
}

// TestPackageNames refuses names that say nothing: whatever is put in such a
// package has no home, and it grows for ever.
func TestPackageNames(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains([]string{"util", "utils", "common", "errors", "helpers", "helper", "misc", "base"}, path.Base(p.ImportPath)) {
			t.Errorf("%s: name the idea the package is about", p.ImportPath)
		}
	}
}

// TestFileLength keeps a file to one theme: past this length there is a second
// noun to be found.
func TestFileLength(t *testing.T) {
	const most = 600 // lines
	for name, content := range files(t, `\.go$`) {
		if n := bytes.Count(content, []byte("\n")); n > most && !strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s has %d lines, at most %d", name, n, most)
		}
	}
}

// TestNothingUnfinished finds the words that stand where something is missing.
func TestNothingUnfinished(t *testing.T) {
	words := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b|(?i)\bplace` + `holder\b|\bnot (yet )?imple` + `mented\b`)
	for name, content := range files(t, `\.(go|md|sh)$|^Makefile$|^scripts/`) {
		for i, line := range strings.Split(string(content), "\n") {
			line = strings.ReplaceAll(line, "place"+"holder:\"", "") // a struct tag of the command line parser
			if found := words.FindString(line); found != "" {
				t.Errorf("%s:%d: %q", name, i+1, found)
			}
		}
	}
}

// within says whether a slash-separated path is dir or below it. A dir that
// ends in a slash matches as a plain prefix.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Dir,Imports,Deps", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 3 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

// files reads the module's own files whose slash-separated path matches.
func files(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	root, match := filepath.Join("..", ".."), regexp.MustCompile(pattern)
	found := map[string][]byte{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if d.Name() == "testdata" || rel == ".git" || rel == "bin" || rel == "bench-results" {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && match.MatchString(rel) {
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			found[rel] = content
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no file matches %s", pattern)
	}
	return found
}

// TestDocumentLinks keeps the documents' links to each other alive.
func TestDocumentLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for name, content := range files(t, `\.md$`) {
		for _, m := range link.FindAllStringSubmatch(string(content), -1) {
			if _, err := os.Stat(filepath.Join("..", "..", path.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}

// TestFuzzCorpora keeps every fuzz target with committed seeds: without them a
// run of the tests passes on nothing.
func TestFuzzCorpora(t *testing.T) {
	target := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	targets := 0
	for name, content := range files(t, `_test\.go$`) {
		for _, m := range target.FindAllSubmatch(content, -1) {
			targets++
			seeds, err := os.ReadDir(filepath.Join("..", "..", path.Dir(name), "testdata", "fuzz", string(m[1])))
			if err != nil || len(seeds) < 3 {
				t.Errorf("%s: %s has %d seeds: %v", name, m[1], len(seeds), err)
			}
		}
	}
	if targets < 20 {
		t.Errorf("%d fuzz targets", targets)
	}
}
