package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// example is one command of docs/commands.md.
type example struct {
	line    int
	command string
	exit    int
	output  []string // patterns of lines, in order
}

// readExamples returns the commands of the console blocks.
func readExamples(t *testing.T, path string) []example {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	inside := false
	for i, line := range strings.Split(string(b), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			command, exit, ok := strings.Cut(line[2:], "# exit ")
			e := example{line: i + 1, command: strings.TrimSpace(command)}
			if ok {
				if e.exit, err = strconv.Atoi(exit); err != nil {
					t.Fatalf("line %d: %v", i+1, err)
				}
			}
			all = append(all, e)
		case inside:
			last := &all[len(all)-1]
			last.output = append(last.output, line)
		}
	}
	return all
}

// fits reports whether a line is what the pattern says: its parts between the
// "…" in order, any amount of space being one.
func fits(pattern, line string) bool {
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	line = squeeze(line)
	for part := range strings.SplitSeq(pattern, "…") {
		_, after, ok := strings.Cut(line, squeeze(part))
		if !ok {
			return false
		}
		line = after
	}
	return true
}

// TestCommandsDocument_ExamplesRun runs every example of docs/commands.md, in
// order, against a real token and the emulated vault. The paths and addresses
// of the document are replaced by the test's own.
func TestCommandsDocument_ExamplesRun(t *testing.T) {
	examples := readExamples(t, filepath.Join("..", "..", "docs", "commands.md"))
	if len(examples) < 30 {
		t.Fatalf("only %d examples found", len(examples))
	}
	work := t.TempDir()
	state := filepath.Join(work, "state")
	t.Cleanup(func() {
		stop(state, syscall.SIGTERM)
		unmountBelow(work)
	})
	env := append(os.Environ(), "CMKFS_STATE_DIR="+state, "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	shell := func(command string) (string, int) {
		t.Helper()
		out, err := os.Create(filepath.Join(work, "output")) // a file: a daemon that stays must not keep a pipe open
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd := exec.Command("sh", "-c", command)
		cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, work, out, out
		err = cmd.Run()
		b, rerr := os.ReadFile(out.Name())
		if cmd.ProcessState == nil || rerr != nil {
			t.Fatalf("%s: %v %v", command, err, rerr)
		}
		return string(b), cmd.ProcessState.ExitCode()
	}
	must := func(command string) string {
		t.Helper()
		out, exit := shell(command)
		if exit != 0 {
			t.Fatalf("%s: exit code %d\n%s", command, exit, out)
		}
		return out
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(work, "home"), 0o755); err != nil {
		t.Fatal(err)
	}
	must(filepath.Join(root, "scripts", "softhsm-rig") + " create rig -t T -k K")
	env = append(env, "SOFTHSM2_CONF="+filepath.Join(work, "rig", "softhsm2.conf"))

	emulator := exec.Command(filepath.Join(bin, "keyvault-emulator"), "--dir", filepath.Join(work, "kv"))
	if err := emulator.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = emulator.Process.Signal(syscall.SIGTERM)
		_ = emulator.Wait()
	})
	kv := ""
	for range 500 {
		var exit int
		if kv, exit = shell("keyvault-emulator ctl --dir kv env"); exit == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	endpoint := ""
	for line := range strings.Lines(kv) {
		line = strings.TrimSpace(line)
		env = append(env, line)
		if v, ok := strings.CutPrefix(line, "KEYVAULT_EMULATOR_ENDPOINT="); ok {
			endpoint = v
		}
	}
	must("keyvault-emulator ctl --dir kv vault acme && keyvault-emulator ctl --dir kv create acme volumes && keyvault-emulator ctl --dir kv create acme volumes-2027 && keyvault-emulator ctl --dir kv grant acme system get list encrypt decrypt")
	ours := strings.NewReplacer("/srv/home", filepath.Join(work, "home"), "/srv/scratch", filepath.Join(work, "scratch"),
		"/etc/cmkfs/pin", filepath.Join(work, "rig", "pin"), "/etc/cmkfs/ca.pem", filepath.Join(work, "kv", "ca.pem"), "10.0.0.4", endpoint)

	for _, e := range examples {
		serving := strings.HasPrefix(e.command, "cmkfsd serve")
		if serving {
			stop(state, syscall.SIGTERM)
		}
		out, exit := shell(ours.Replace(e.command))
		if exit != e.exit {
			t.Fatalf("line %d: %s: exit code %d, want %d\n%s", e.line, e.command, exit, e.exit, out)
		}
		rest := strings.Split(out, "\n")
		for _, pattern := range e.output {
			at := 0
			for at < len(rest) && !fits(ours.Replace(pattern), rest[at]) {
				at++
			}
			if at == len(rest) {
				t.Fatalf("line %d: %s: no line fits %q in\n%s", e.line, e.command, pattern, out)
			}
			rest = rest[at+1:]
		}
		if serving {
			waitFor(t, func() bool { _, exit := shell("cmkfsd status"); return exit == 0 })
		}
	}
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not happen")
}
