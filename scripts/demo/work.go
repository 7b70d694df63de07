package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// build compiles a program from the sources inside the mount, with the build
// cache and the result inside it too, and runs the result.
func (d *demo) build(mount, goroot string) error {
	// The toolchain's own programs are used where they are; every source file
	// comes from the mount.
	inside := filepath.Join(mount, "go")
	for _, name := range []string{"bin", "pkg", "VERSION", "go.env"} {
		if err := os.Symlink(filepath.Join(goroot, name), filepath.Join(inside, name)); err != nil {
			return err
		}
	}
	gofmt := filepath.Join(mount, "gofmt")
	began := time.Now()
	_, err := d.Do("env", "GOROOT="+inside, "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0",
		"GOCACHE="+filepath.Join(mount, "cache"), "GOTMPDIR="+mount,
		"go", "build", "-C", filepath.Join(inside, "src", "cmd"), "-o", gofmt, "cmd/gofmt")
	if err != nil {
		return err
	}
	out, err := d.Do(gofmt, filepath.Join(inside, "src", "fmt", "print.go"))
	if err != nil {
		return err
	}
	source, err := os.ReadFile(filepath.Join(goroot, "src", "fmt", "print.go"))
	if err != nil {
		return err
	}
	if out != string(source) {
		return fmt.Errorf("the gofmt built on the volume gives other output than expected")
	}
	d.Say("go build of cmd/gofmt took %.1fs, and what it built works", time.Since(began).Seconds())
	return nil
}

// rows is how many the SQLite job inserts, each in a transaction of its own.
const rows = 2000

// sqlite fills a database, one durable transaction per row.
func (d *demo) sqlite(db string) error {
	var sql bytes.Buffer
	sql.WriteString("pragma journal_mode=wal; pragma synchronous=full; create table t(id integer primary key, v text);\n")
	for i := range rows {
		fmt.Fprintf(&sql, "insert into t(v) values('row %d');\n", i)
	}
	script := d.Path("rows.sql")
	if err := os.WriteFile(script, sql.Bytes(), 0o600); err != nil {
		return err
	}
	if _, err := d.Do("sqlite3", "-bail", db, ".read "+script); err != nil {
		return err
	}
	return d.sqliteHolds(db)
}

// sqliteHolds checks the database and the number of its rows.
func (d *demo) sqliteHolds(db string) error {
	out, err := d.Do("sqlite3", "-bail", db, "pragma integrity_check; select count(*) from t;")
	if err != nil {
		return err
	}
	if got, want := strings.TrimSpace(out), fmt.Sprintf("ok\n%d", rows); got != want {
		return fmt.Errorf("sqlite says %q, want %q", got, want)
	}
	d.Say("SQLite: %d rows, integrity_check ok", rows)
	return nil
}

// git commits a part of the tree and checks the repository.
func (d *demo) git(repo, source string) error {
	if _, err := d.Do("cp", "-r", source, repo); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"init", "-q"},
		{"add", "-A"},
		{"commit", "-q", "-m", "the sources of a package"},
	} {
		if _, err := d.gitIn(repo, args...); err != nil {
			return err
		}
	}
	return d.gitHolds(repo)
}

// gitHolds checks every object and that nothing differs from the commit.
func (d *demo) gitHolds(repo string) error {
	if _, err := d.gitIn(repo, "fsck", "--full", "--strict"); err != nil {
		return err
	}
	changed, err := d.gitIn(repo, "status", "--porcelain")
	if err != nil {
		return err
	}
	if changed != "" {
		return fmt.Errorf("git status is not clean: %s", changed)
	}
	files, err := d.gitIn(repo, "ls-files")
	if err != nil {
		return err
	}
	d.Say("git: %d files committed, fsck finds nothing, status is clean", strings.Count(files, "\n"))
	return nil
}

func (d *demo) gitIn(repo string, args ...string) (string, error) {
	return d.Do("env", append([]string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "git", "-C", repo,
		"-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "safe.directory=*", "-c", "gc.auto=0"}, args...)...)
}
