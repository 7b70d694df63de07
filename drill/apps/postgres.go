package apps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// postgres is a cluster on the volume with pgbench at work. PostgreSQL gives up
// when its log cannot be written, and recovers from it when it is started again.
type postgres struct {
	command
	bin    string // folder of the server's programs
	data   string
	socket string // folder
	log    string

	mu        sync.Mutex
	processed int // transactions that pgbench was told are committed
}

// Postgres is a cluster in a folder of the volume with pgbench at work; logs is
// a folder outside. It finds the server's programs and its user: it does not run
// as root.
func Postgres(in, logs string) (*App, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and %w", err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, err
	}
	p := &postgres{bin: bin, data: filepath.Join(in, "postgres"), socket: filepath.Join(logs, "pg")}
	p.log = filepath.Join(p.socket, "log")
	p.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	p.env = []string{"PGHOST=" + p.socket, "PGUSER=postgres", "PGDATABASE=postgres", "PGCONNECT_TIMEOUT=5"}
	return &App{
		Name: "PostgreSQL", rest: 100 * time.Millisecond,
		prepare: func(ctx context.Context) error { return p.prepare(ctx, logs, uid, gid) },
		work:    p.work, verify: p.verify, end: p.end,
	}, nil
}

// postgresBin returns the folder of initdb.
func postgresBin() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			found = append(found, real)
		}
	}
	if len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed (Debian: postgresql)")
	}
	return filepath.Dir(slices.Max(found)), nil
}

func (p *postgres) program(name string) string { return filepath.Join(p.bin, name) }

func (p *postgres) prepare(ctx context.Context, logs string, uid, gid int) error {
	if err := os.Chmod(logs, 0o711); err != nil { // the way to the socket
		return err
	}
	for dir := filepath.Dir(p.data); dir != "/" && len(dir) > len(filepath.Dir(logs)); dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && st.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s is closed to the user postgres", dir)
		}
	}
	for _, dir := range []string{p.data, p.socket} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			return err
		}
	}
	if _, err := p.run(ctx, p.program("initdb"), "-D", p.data, "-U", "postgres", "-A", "trust", "--no-sync"); err != nil {
		return err
	}
	if err := p.start(ctx); err != nil {
		return err
	}
	_, err := p.run(ctx, p.program("pgbench"), "-i", "-q", "-s", "1")
	return err
}

// start starts the server and waits until it has recovered. Its output goes to
// a file, since it stays.
func (p *postgres) start(ctx context.Context) error {
	_, err := p.run(ctx, p.program("pg_ctl"), "-D", p.data, "-l", p.log, "-w", "-t", "15", "-o", "-c listen_addresses='' -c unix_socket_directories="+p.socket+" -c restart_after_crash=off", "start")
	return err
}

// work runs pgbench for a moment.
func (p *postgres) work(ctx context.Context) error {
	out, err := p.run(ctx, p.program("pgbench"), "-n", "-c", "2", "-T", "1")
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range strings.Lines(out) {
		if number, ok := strings.CutPrefix(line, "number of transactions actually processed: "); ok {
			number, _, _ = strings.Cut(strings.TrimSpace(number), "/")
			n, _ := strconv.Atoi(number)
			p.processed += n
		}
	}
	return err
}

// end ends the server at once. Where its volume is gone, pg_ctl cannot find it:
// the first line of the lock of its socket has its pid.
func (p *postgres) end(ctx context.Context) {
	_, err := p.run(ctx, p.program("pg_ctl"), "-D", p.data, "-m", "immediate", "-w", "-t", "15", "stop")
	if err == nil {
		return
	}
	lock, err := os.ReadFile(filepath.Join(p.socket, ".s.PGSQL.5432.lock"))
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(lock), "\n")
	pid, err := strconv.Atoi(line)
	ours := func() bool {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return strings.Contains(string(args), p.data)
	}
	if err != nil || !ours() {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGQUIT)
	for range 100 {
		if !ours() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func (p *postgres) verify(ctx context.Context) (bad []string) {
	p.end(ctx) // what is left of a server that has met errors
	if err := p.start(ctx); err != nil {
		return []string{fmt.Sprintf("the server does not start: %v", err)}
	}
	defer func() { _, _ = p.run(ctx, p.program("pg_ctl"), "-D", p.data, "-m", "fast", "-w", "-t", "15", "stop") }()
	out, err := p.run(ctx, p.program("psql"), "-Atc", "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history), (select count(*) from pgbench_history)")
	if err != nil {
		return []string{err.Error()}
	}
	row := strings.Split(strings.TrimSpace(out), "|")
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(row) != 5 {
		return []string{"the sums cannot be read: " + out}
	}
	// Every page of every table and index, where the host has the program.
	if _, err := os.Stat(p.program("pg_amcheck")); err == nil {
		if out, err := p.run(ctx, p.program("pg_amcheck"), "--install-missing", "--heapallindexed"); err != nil {
			bad = append(bad, fmt.Sprintf("pg_amcheck: %s: %v", out, err))
		}
	}
	if row[0] != row[1] || row[1] != row[2] || row[2] != row[3] {
		bad = append(bad, "the sums of accounts, tellers, branches and history differ: "+out)
	}
	if n, err := strconv.Atoi(row[4]); err != nil || n < p.processed || p.processed == 0 {
		bad = append(bad, fmt.Sprintf("%s transactions are there, %d were committed", row[4], p.processed))
	}
	return bad
}
