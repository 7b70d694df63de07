package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cmkfs/scripts/internal/stage"
)

// The names that the table and the judgement know.
const (
	native    = "native"
	floor     = "floor"
	ceiling   = "ceiling"
	gocryptfs = "gocryptfs"
	cmkfs     = "cmkfs"
	rootOnly  = "root-only" // cmkfs for one user and without checks, as the others by default
)

// rival is a file system that takes part.
type rival struct {
	name string
	// judged ones take part in every repetition, without a short limit.
	judged bool
	// start makes the file system in t.dir, which is empty, and mounts it at
	// t.mount. It returns the daemon, nil if there is none.
	start func(b *bench, t *turn) (*stage.Process, error)
}

// rivals lists them in the order of the table's columns.
var rivals = []rival{
	{native, true, func(b *bench, t *turn) (*stage.Process, error) {
		t.mount = t.dir
		return nil, nil
	}},
	{floor, false, func(b *bench, t *turn) (*stage.Process, error) {
		return t.launch(b, "", b.Path("floor"), t.dir, t.mount)
	}},
	{ceiling, false, func(b *bench, t *turn) (*stage.Process, error) {
		args := []string{t.mount}
		// These read back what they wrote.
		if strings.ContainsAny(t.group, "HIK") {
			args = append([]string{"-keep"}, args...)
		}
		return t.launch(b, "", b.Path("ceiling"), args...)
	}},
	{gocryptfs, true, func(b *bench, t *turn) (*stage.Process, error) {
		pass := b.Path("password")
		if err := os.WriteFile(pass, []byte("bench\n"), 0o600); err != nil {
			return nil, err
		}
		if _, err := b.Do("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", pass, t.dir); err != nil {
			return nil, err
		}
		args := []string{"-fg", "-q", "-nosyslog", "-passfile", pass}
		if b.checks(t) {
			args = append(args, "-allow_other") // which has the kernel check permissions, too
		}
		return t.launch(b, "", "gocryptfs", append(args, t.dir, t.mount)...)
	}},
	{"securefs", false, func(b *bench, t *turn) (*stage.Process, error) {
		if _, err := b.Do("securefs", "create", "--pass", "bench", "--pbkdf", "pkcs5-pbkdf2-hmac-sha256", "-r", "1000", t.dir); err != nil {
			return nil, err
		}
		return t.launch(b, "", "securefs", append([]string{"mount", "--pass", "bench", t.dir, t.mount}, b.checking(t, "-o")...)...)
	}},
	{"cryfs", false, func(b *bench, t *turn) (*stage.Process, error) {
		return t.launch(b, "bench\n", "cryfs", append([]string{"-f", "--allow-replaced-filesystem", t.dir, t.mount}, b.checking(t, "-o")...)...)
	}},
	{"encfs", false, func(b *bench, t *turn) (*stage.Process, error) {
		return t.launch(b, "bench\n", "encfs", append([]string{"-f", "-S", "--standard", t.dir, t.mount}, b.checking(t, "--", "-o")...)...)
	}},
	{rootOnly, false, func(b *bench, t *turn) (*stage.Process, error) {
		return startCmkfs(b, t, strings.TrimPrefix(b.options.mount+",noallow_other", ","))
	}},
	{cmkfs, true, func(b *bench, t *turn) (*stage.Process, error) {
		return startCmkfs(b, t, b.options.mount)
	}},
}

// startCmkfs mounts a new volume with options of its mount command.
func startCmkfs(b *bench, t *turn, options string) (*stage.Process, error) {
	b.State = filepath.Join(t.dir, "state")
	p, err := b.Serve()
	if err != nil {
		return p, err
	}
	mount := []string{"volume", "mount", "bench", t.mount}
	if options != "" {
		mount = append(mount, "-o", options)
	}
	// The key source is not on the path of data: -keys shows it.
	for _, args := range [][]string{{"account", "create", "--name", "bench"}, {"volume", "create", "--name", "bench"}, mount} {
		if _, err := b.Cmkfs(args...); err != nil {
			return p, err
		}
	}
	index, err := filepath.Glob(filepath.Join(b.State, "*", "*", "*", "*", "index.db"))
	if err == nil && len(index) == 1 {
		t.watch = index[0]
	}
	return p, nil
}

// choose returns those that take part: cmkfs and the ones named, all for "".
func choose(names string) ([]rival, error) {
	wanted := strings.Split(names, ",")
	all := names == "" || names == "all"
	for _, n := range wanted {
		if !all && n != "none" && !slices.ContainsFunc(rivals, func(r rival) bool { return r.name == n }) {
			return nil, fmt.Errorf("there is no %q to compare with", n)
		}
	}
	var chosen []rival
	for _, r := range rivals {
		if all || r.name == cmkfs || slices.Contains(wanted, r.name) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

// checks reports whether the others serve all users in a turn, the kernel checking.
func (b *bench) checks(t *turn) bool { return b.options.checks || strings.Contains(t.group, "M") }

// checking is what follows a rival's arguments so that it serves all users and the
// kernel checks their permissions, as with cmkfs, and nothing unless that is asked for.
func (b *bench) checking(t *turn, introduction ...string) []string {
	if !b.checks(t) {
		return nil
	}
	return append(introduction, "allow_other,default_permissions")
}

// launch starts a daemon in the foreground.
func (t *turn) launch(b *bench, input, program string, args ...string) (*stage.Process, error) {
	b.launched++
	return b.LaunchWith(fmt.Sprintf("%s-%d.log", filepath.Base(program), b.launched), input, program, args...)
}

// version is what the report says of a program that takes part, "" if nothing.
func (r rival) version() string {
	var out []byte
	switch r.name {
	case gocryptfs:
		out, _ = exec.Command("gocryptfs", "--version").Output()
		before, _, _ := strings.Cut(string(out), ";")
		return strings.TrimSpace(before)
	case "securefs", "cryfs", "encfs":
		out, _ = exec.Command("dpkg-query", "-W", "-f", "${Package} ${Version}", r.name).Output()
		return strings.TrimSpace(string(out))
	}
	return ""
}

// startLimit bounds the mounting of a file system: cryfs derives its key for long.
const startLimit = 2 * time.Minute
