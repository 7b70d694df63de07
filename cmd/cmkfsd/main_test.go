package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rogpeppe/go-internal/testscript"

	"cmkfs/internal/race"
)

// bin is a folder with the programs, built once: the daemon executes itself, so
// the test binary cannot stand in for it.
var bin string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if len(os.Args) > 1 && os.Args[1] == linkLocalCommand {
		fmt.Fprintln(os.Stderr, linkLocal(os.Args[2:]))
		return 1
	}
	dir, err := os.MkdirTemp("", "cmkfsd-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	for _, name := range []string{"cmkfsd", "keyvault-emulator"} {
		build := exec.Command("go", "build", fmt.Sprintf("-race=%v", race.Detector), "-o", filepath.Join(bin, name), "cmkfs/cmd/"+name)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build", name+":", err)
			return 1
		}
	}
	if err := os.Symlink("cmkfsd", filepath.Join(bin, "mount.cmkfs")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if raced.failed() {
		return 1
	}
	return code
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setup,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"json":     jsonField,
			"json-env": jsonEnv,
			"until":    until,
			"shows":    shows,
			"daemon-stop": func(ts *testscript.TestScript, _ bool, _ []string) {
				stop(ts.Getenv("CMKFS_STATE_DIR"), syscall.SIGTERM)
			},
			"daemon-kill": func(ts *testscript.TestScript, _ bool, _ []string) {
				stop(ts.Getenv("CMKFS_STATE_DIR"), syscall.SIGKILL)
			},
			"hold":        hold,
			"emulator":    emulator,
			"certificate": certificate,
			"nowhere":     nowhere,
			"flip":        flip,
			"softhsm":     softhsm,
			"free-port":   freePort,
			"metrics":     metrics,
		},
	})
}

// setup gives each script a state directory of its own and the program in its
// PATH, and cleans up behind it: what is mounted below its folder must not be
// there when that is removed.
func setup(env *testscript.Env) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	state := filepath.Join(env.WorkDir, "state")
	env.Setenv("CMKFS_STATE_DIR", state)
	env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	env.Setenv("ROOT", root)
	env.Setenv("TZ", "UTC")
	env.Setenv("RESOURCE", "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/volumes")
	work := env.WorkDir
	held := map[string]*os.File{} // for the command hold
	env.Values["held"] = held
	env.Defer(func() {
		for _, f := range held {
			f.Close()
		}
		states, _ := filepath.Glob(filepath.Join(work, "*", "cmkfsd.sock"))
		for _, s := range states {
			stop(filepath.Dir(s), syscall.SIGTERM)
		}
		logs, _ := filepath.Glob(filepath.Join(work, "*", "cmkfsd.log")) // some daemons have ended before
		for _, l := range logs {
			raced.lookInto(l)
		}
		unmountBelow(work)
	})
	return nil
}

// stop ends the daemon of a state directory, if there is one, and waits.
func stop(state string, how syscall.Signal) {
	defer raced.lookInto(filepath.Join(state, "cmkfsd.log"))
	b, err := os.ReadFile(filepath.Join(state, "lock"))
	if err != nil {
		return
	}
	f, err := os.Open(filepath.Join(state, "lock"))
	if err != nil {
		return
	}
	defer f.Close()
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return // nobody holds the lock: the process id is an old one
	}
	_ = syscall.Kill(pid, how)
	for range 3000 {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	panic("the daemon does not end")
}

// unmountBelow detaches every mount below a folder.
func unmountBelow(dir string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(b)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, dir+"/") {
			_ = unix.Unmount(point, unix.MNT_DETACH)
		}
	}
}

// exits runs a command and wants its exit code: exits 5 cmkfsd volume mount …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if err != nil {
		exit, _ = err.(*exec.ExitError)
		if exit == nil {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// jsonField looks into the JSON on standard output: json PATH VALUE, where PATH
// is made of fields and indexes, for example accounts.0.state.
func jsonField(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json PATH VALUE")
	}
	got, err := lookUp([]byte(ts.ReadFile("stdout")), args[0])
	ts.Check(err)
	if (got == args[1]) == neg {
		ts.Fatalf("%s is %q, want %q (negated: %v)", args[0], got, args[1], neg)
	}
}

// jsonEnv keeps a field of the JSON on standard output in a variable:
// json-env NAME PATH.
func jsonEnv(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json-env NAME PATH")
	}
	got, err := lookUp([]byte(ts.ReadFile("stdout")), args[1])
	ts.Check(err)
	ts.Setenv(args[0], got)
}

func lookUp(b []byte, path string) (string, error) {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return "", err
	}
	for part := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			if part == "*" && len(x) == 1 {
				for _, v = range x { // the only one, whatever it is called
				}
				continue
			}
			v = x[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(x) {
				return "", fmt.Errorf("there is no element %s", part)
			}
			v = x[i]
		default:
			return "", fmt.Errorf("there is no field %s", part)
		}
	}
	return fmt.Sprint(v), nil
}

// until waits until a field of status has a value, in which * stands for any
// text: until accounts.0.state online
func until(ts *testscript.TestScript, _ bool, args []string) {
	var got string
	want := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(args[1]), `\*`, ".*") + "$")
	for range 1500 {
		b, err := exec.Command(filepath.Join(bin, "cmkfsd"), "--state-dir", ts.Getenv("CMKFS_STATE_DIR"), "status", "-o", "json").Output()
		if err == nil {
			got, err = lookUp(b, args[0])
		}
		if err == nil && want.MatchString(got) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("%s stays %q, want %q", args[0], got, args[1])
}

// shows runs a command until its output has something that fits: shows PATTERN
// COMMAND [ARG…]
func shows(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	var out []byte
	for range 300 {
		cmd := exec.Command(filepath.Join(bin, args[1]), args[2:]...)
		cmd.Env = append(os.Environ(), "CMKFS_STATE_DIR="+ts.Getenv("CMKFS_STATE_DIR"))
		out, _ = cmd.CombinedOutput()
		if pattern.Match(out) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%q does not show in\n%s", args[0], out)
}

// hold opens a file for reading or, with a text, reads on in one that is held:
// "hold FILE" opens it, "hold FILE TEXT" wants the text from its beginning,
// "hold FILE !ERRNO" the error; "hold FILE -close" closes it.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	held := ts.Value("held").(map[string]*os.File)
	if len(args) == 1 {
		f, err := os.Open(path)
		ts.Check(err)
		held[path] = f
		return
	}
	if args[1] == "-close" {
		held[path].Close() // which says so if the volume is suspended
		delete(held, path)
		return
	}
	b := make([]byte, 4096)
	n, err := held[path].ReadAt(b, 0)
	got := strings.TrimSpace(string(b[:n]))
	var errno syscall.Errno
	if n == 0 && errors.As(err, &errno) {
		got = "!" + unix.ErrnoName(errno)
	}
	if got != args[1] {
		ts.Fatalf("read %q (%v), want %q", got, err, args[1])
	}
}

// softhsm runs the SoftHSM rig and takes the variables it prints.
func softhsm(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(filepath.Join(ts.Getenv("ROOT"), "scripts", "softhsm-rig"), args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Stderr = ts.Stderr()
	out, err := cmd.Output()
	ts.Check(err)
	for line := range strings.Lines(string(out)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && slices.Contains([]string{"SOFTHSM2_CONF", "PKCS11_URI"}, k) {
			ts.Setenv(k, v)
		}
	}
}

// emulator starts a key vault in the folder kv and takes the variables it
// prints. It ends with the script.
func emulator(ts *testscript.TestScript, _ bool, _ []string) {
	cmd := exec.Command(filepath.Join(bin, "keyvault-emulator"), "--dir", ts.MkAbs("kv"), "--print-env")
	cmd.Stderr = ts.Stderr()
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		k, v, _ := strings.Cut(lines.Text(), "=")
		ts.Setenv(k, v)
		if k == "KEYVAULT_EMULATOR_VAULT_URI" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return
		}
	}
	ts.Fatalf("the emulator ended: %v", lines.Err())
}

// flip flips a bit of a file: flip FILE OFFSET. Of several files a pattern
// names, it takes the largest.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	offset, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	path, largest := "", int64(-1)
	for _, n := range names {
		st, err := os.Stat(n)
		ts.Check(err)
		if st.Size() > largest {
			path, largest = n, st.Size()
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, offset)
	ts.Check(err)
	b[0] ^= 1
	_, err = f.WriteAt(b, offset)
	ts.Check(err)
}

// nowhere wants a text to be in no file of the state directory and in the
// memory of no process that runs our program.
func nowhere(ts *testscript.TestScript, _ bool, args []string) {
	state := ts.Getenv("CMKFS_STATE_DIR")
	ts.Check(filepath.WalkDir(state, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(args[0])) || strings.Contains(path, args[0]) {
			ts.Fatalf("%q is in %s", args[0], path)
		}
		return err
	}))
	daemon, err := os.ReadFile(filepath.Join(state, "lock"))
	ts.Check(err)
	family := []string{strings.TrimSpace(string(daemon))}
	for i := 0; i < len(family); i++ {
		tasks, err := filepath.Glob("/proc/" + family[i] + "/task/*/children")
		ts.Check(err)
		for _, t := range tasks {
			more, _ := os.ReadFile(t) // of a thread that has ended meanwhile
			for _, pid := range strings.Fields(string(more)) {
				if !slices.Contains(family, pid) {
					family = append(family, pid)
				}
			}
		}
		searchMemory(ts, family[i], args[0])
	}
}

func searchMemory(ts *testscript.TestScript, pid, text string) {
	maps, err := os.ReadFile("/proc/" + pid + "/maps")
	mem, memErr := os.Open("/proc/" + pid + "/mem")
	if err = errors.Join(err, memErr); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return // it has ended meanwhile: key agents are replaced all the time
	}
	ts.Check(err)
	defer mem.Close()
	searched := 0
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		var from, to int64
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil || fields[1][0] != 'r' {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from) // special mappings cannot be read
		searched += n
		if bytes.Contains(b[:n], []byte(text)) {
			ts.Fatalf("%q is in the memory of process %s (%s)", text, pid, strings.TrimSpace(line))
		}
	}
	if _, err := os.Stat("/proc/" + pid); err == nil && searched < 1<<20 {
		ts.Fatalf("only %d bytes of process %s could be searched", searched, pid)
	}
}
