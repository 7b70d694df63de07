package supervisor_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/internal/race"
	"cmkfs/keyagent"
	"cmkfs/supervisor"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// TestMain lets the test binary be all three kinds of process, as cmkfsd is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "worker":
			worker.Main()
		case "key-agent":
			if err := keyagent.Serve(keyagent.SocketFD); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "keeper":
			if err := supervisor.Keep(os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "wait":
			waitForFile(os.Args[2])
			os.Exit(0)
		case "peek":
			peek(os.Args[2])
			os.Exit(0)
		case "thaw":
			thawLater(os.Args[2])
			os.Exit(0)
		case "unswap":
			unswapLater(os.Args[2])
			os.Exit(0)
		case "serve":
			os.Exit(serve(os.Args[2]))
		case "read":
			first, _ := strconv.Atoi(os.Args[3])
			readFile(os.Args[2], int64(first))
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// serve is the daemon process: it prints a line when it listens.
func serve(stateDir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	drain := 5 * time.Second
	if d, err := time.ParseDuration(os.Getenv("CMKFS_TEST_DRAIN")); err == nil {
		drain = d
	}
	err := supervisor.Run(ctx, supervisor.Config{
		StateDir: stateDir, Version: "test", MetricsListen: os.Getenv("CMKFS_TEST_METRICS"), AgentTimeout: 5 * time.Second, DrainTimeout: drain, HangTimeout: 6 * time.Second, Patience: 12 * time.Second,
		Listening: func() { fmt.Println("listening") },
	})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// daemon is a cmkfsd serve of the test's own.
type daemon struct {
	t     *testing.T
	dir   string
	cmd   *exec.Cmd
	ended chan struct{}
	*api.Client
}

// rescueAfter is longer than any test takes; TestRoutes_Cycles and TestKills can
// be made longer.
func rescueAfter() time.Duration {
	cycles, _ := strconv.Atoi(os.Getenv("CMKFS_CYCLES"))
	return 4*time.Minute + time.Duration(cycles)*2*time.Second + time.Duration(killCount())*3*time.Second
}

// startDaemon runs a daemon on a state directory; it ends with the test.
func startDaemon(t *testing.T, dir string) *daemon {
	t.Helper()
	d, err := tryDaemon(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tryDaemon(t *testing.T, dir string) (*daemon, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount: run them as root")
	}
	d := &daemon{t: t, dir: dir, ended: make(chan struct{})}
	d.cmd = exec.Command("/proc/self/exe", "serve", dir)
	d.cmd.Stderr = &testLog{t: t, name: t.Name()}
	d.cmd.WaitDelay = time.Second // a worker that cannot die holds it
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, out)
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	if line != "listening\n" {
		<-d.ended
		return nil, errors.New(strings.TrimSpace(line))
	}
	d.Client = api.NewClient(filepath.Join(dir, "cmkfsd.sock"))
	// Before the test's time is up: a program that waits for a mount that
	// nobody serves cannot even be killed.
	rescue := time.AfterFunc(rescueAfter(), func() {
		t.Error("the test takes too long; aborting its mounts")
		d.abort()
	})
	t.Cleanup(func() {
		rescue.Stop()
		d.stop()
		auditIntact(t, dir)
	})
	return d, nil
}

// auditIntact wants the audit logs of a state directory to be whole, whatever
// was killed: every test ends with it.
func auditIntact(t *testing.T, dir string) {
	t.Helper()
	d, err := account.Open(dir)
	if err != nil {
		return // a test that made none
	}
	names, err := d.Accounts()
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		var broken *account.ChainError
		if err := d.Events(name, 0, func(account.Event) error { return nil }); errors.As(err, &broken) {
			t.Errorf("account %s: %v", name, err)
		}
	}
}

// stop ends the daemon as systemd would and waits for it.
func (d *daemon) stop() {
	d.Close()
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		d.t.Error("the daemon does not end")
		d.abort()
		d.kill()
	}
}

// kill ends the daemon at once, and only it.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.ended
}

// abort ends the daemon's mounts by force, so that nothing of a failed test
// hangs on them.
func (d *daemon) abort() {
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", d.cmd.Process.Pid))
	for _, info := range infos {
		b, _ := os.ReadFile(info)
		if _, conn, ok := strings.Cut(string(b), "fuse_connection:"); ok {
			abortConnection(strings.TrimSpace(conn))
		}
	}
	// Those of a daemon that is dead.
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line) // id parent major:minor root point …
		if len(fields) > 4 && strings.Contains(line, " fuse.cmkfs ") && strings.HasPrefix(fields[4], filepath.Dir(d.dir)+"/") {
			abortConnection(strings.TrimPrefix(fields[2], "0:"))
		}
	}
}

func abortConnection(number string) {
	_ = os.WriteFile("/sys/fs/fuse/connections/"+number+"/abort", []byte("1"), 0)
}

// testLog shows a process's log if the test fails or is verbose.
type testLog struct {
	t    *testing.T
	name string
}

func (l *testLog) Write(b []byte) (int, error) {
	if f, err := os.OpenFile(logPath(l.t), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		_, _ = f.Write(b)
		f.Close()
	}
	return len(b), nil
}

// logPath is where the processes of a test log; it is shown if the test fails.
func logPath(t *testing.T) string {
	return filepath.Join(os.TempDir(), "cmkfs-"+strings.ReplaceAll(t.Name(), "/", "-")+".log")
}

// showLog shows what the processes log at the end of a test that has failed, or
// is verbose. A data race in one of them fails the test.
func showLog(t *testing.T) {
	t.Cleanup(func() {
		b, _ := os.ReadFile(logPath(t))
		if race.Report(b) != nil {
			t.Error("a process has a data race")
		}
		if t.Failed() || testing.Verbose() {
			t.Logf("log of the processes:\n%s", b)
		}
		_ = os.Remove(logPath(t))
	})
}

// rig is a daemon with one account.
type rig struct {
	*daemon
	ctx   context.Context
	mount string
}

// newRig starts a daemon with the account "acct", whose key is the platform's,
// and the volume "vol" mounted at rig.mount.
func newRig(t *testing.T, options ...string) *rig {
	t.Helper()
	r := newRigWithoutVolume(t)
	r.addVolume(options...)
	return r
}

// shortDir is t.TempDir, but the path does not have the test's name in it: there is
// a socket below, whose path has room for 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newRigWithoutVolume starts a daemon with the account "acct".
func newRigWithoutVolume(t *testing.T) *rig {
	t.Helper()
	base := shortDir(t)
	r := &rig{ctx: t.Context(), mount: filepath.Join(base, "mnt")}
	if err := os.Mkdir(r.mount, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountLeft(r.mount) })
	showLog(t)
	r.daemon = startDaemon(t, filepath.Join(base, "state"))
	if _, err := r.CreateAccount(r.ctx, api.CreateAccount{Name: "acct"}); err != nil {
		t.Fatal(err)
	}
	return r
}

// addVolume makes the volume "vol" and mounts it.
func (r *rig) addVolume(options ...string) {
	r.t.Helper()
	if _, err := r.CreateVolume(r.ctx, "acct", api.CreateVolume{Name: "vol"}); err != nil {
		r.t.Fatal(err)
	}
	r.mustMount(options...)
}

func (r *rig) mustMount(options ...string) {
	r.t.Helper()
	v, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: r.mount, Options: options})
	if err != nil {
		r.t.Fatal(err)
	}
	if v.State != api.VolumeOnline || v.MountPoint != r.mount {
		r.t.Fatalf("after mount: %+v", v)
	}
}

// volume returns the volume's status.
func (r *rig) volume() api.VolumeStatus {
	r.t.Helper()
	st, err := r.Status(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return st.Accounts[0].Volumes[0]
}

// workerPID returns the volume's worker, to be killed. A mount is answered a
// moment before its worker serves, and process 0 would be the tests themselves.
func (r *rig) workerPID() int {
	r.t.Helper()
	var pid int
	eventually(r.t, "a worker serves", func() bool {
		pid = r.volume().WorkerPID
		return pid != 0
	})
	return pid
}

// account returns the account's status.
func (r *rig) account() api.AccountStatus {
	r.t.Helper()
	st, err := r.Status(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return st.Accounts[0]
}

func (r *rig) path(name string) string { return filepath.Join(r.mount, name) }

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// unmountLeft removes a mount that a failed test has left.
func unmountLeft(path string) {
	for unix.Unmount(path, unix.MNT_DETACH) == nil {
	}
}

// children returns the pids of a process's children whose arguments contain a
// word. It looks at no other process.
func children(t *testing.T, parent int, word string) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty for a zombie
			if strings.Contains(string(args), word) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// errnoIs says whether an error is an errno.
func errnoIs(err error, want syscall.Errno) bool { return errors.Is(err, want) }
