package fs_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkfs/fs"

	"golang.org/x/sys/unix"
)

// The mounts of these tests are served by other processes, as in production:
// the test binary runs itself again, as a worker or as a client with mappings.
const roleEnv = "CMKFS_FS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "worker":
		workerMain()
	case "mapper":
		mapperMain()
	case "user":
		userMain()
	case "locker":
		lockerMain()
	case "load":
		loadMain()
	}
}

// workerArgs is what a test worker is told.
type workerArgs struct {
	Volume  string // "mem", or the directory of a real volume
	Init    []byte
	Resend  bool
	Mount   fs.MountConfig
	Session uint64
}

func workerMain() {
	var args workerArgs
	if err := json.Unmarshal([]byte(os.Getenv("CMKFS_FS_TEST_ARGS")), &args); err != nil {
		panic(err)
	}
	nodes, err := fs.OpenNodeTable(os.NewFile(4, "nodes"))
	if err != nil {
		panic(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	stopProfile := startProfile()
	vol, closeVolume := openVolume(args.Volume, log, nodes.Unanswered)
	s, err := fs.NewServer(fs.ServeConfig{
		Volume: vol, File: os.NewFile(3, "fuse"), Init: args.Init, Nodes: nodes,
		Mount: args.Mount, Session: args.Session, Resend: args.Resend, Log: log,
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			var ms, errno int
			switch _, err := fmt.Sscanf(in.Text(), "suspend %d %d", &ms, &errno); {
			case err == nil:
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(ms)*time.Millisecond)
				d, err := s.Suspend(ctx, syscall.Errno(errno), false)
				cancel()
				if err != nil {
					panic(err)
				}
				b, _ := json.Marshal(d)
				fmt.Println(string(b))
			case strings.HasPrefix(in.Text(), "handle "):
				b, err := base64.StdEncoding.DecodeString(in.Text()[7:])
				if err != nil {
					panic(err)
				}
				s.Handle(b)
				fmt.Println("handled")
			case in.Text() == "exit":
				closeVolume()
				stopProfile()
				os.Exit(0)
			}
		}
		os.Exit(0) // the test is gone
	}()
	if err := s.Serve(); err != nil {
		panic(err)
	}
	fmt.Println("served")
	select {}
}

// startProfile writes a profile of the worker where CMKFS_FS_TEST_PROFILE says.
func startProfile() (stop func()) {
	path := os.Getenv("CMKFS_FS_TEST_PROFILE")
	if path == "" {
		return func() {}
	}
	f, err := os.Create(path)
	if err != nil {
		panic(err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		panic(err)
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}
}

// rig is a mount with the supervisor's side of it.
type rig struct {
	t      testing.TB
	dir    string // mount point
	dev    *fs.Device
	volume string
	// One of these is there, from a worker's death or suspension to the next
	// worker at least after refuse.
	worker   *worker
	answerer *fs.Answerer
}

// worker is a running worker process.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// newRig mounts a volume and starts a worker.
func newRig(t testing.TB, volume string, cfg fs.MountConfig) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root, to mount")
	}
	base := t.TempDir()
	dir := filepath.Join(base, "mnt")
	if err := os.Mkdir(dir, 0755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(base), 0755); err != nil { // for other users
		t.Fatal(err)
	}
	cfg.Mountpoint, cfg.Source = dir, "acc/vol"
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dev, err := fs.Mount(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, dev: dev, volume: volume}
	t.Cleanup(r.close)
	watchdog(t, dev)
	r.startWorker()
	return r
}

// startWorker starts a worker, which takes over from whoever was before.
func (r *rig) startWorker() {
	r.t.Helper()
	if r.answerer != nil {
		r.answerer.Stop() // what it read last comes again
		r.answerer = nil
	}
	args, err := json.Marshal(workerArgs{Volume: r.volume, Init: r.dev.Init, Resend: r.dev.Resend, Mount: r.dev.Mount, Session: 42})
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=worker", "CMKFS_FS_TEST_ARGS="+string(args))
	cmd.ExtraFiles = []*os.File{r.dev.File, r.dev.Nodes.File()}
	r.worker = start(r.t, cmd)
	r.worker.expect(r.t, "ready")
}

// hang is after how long a test is taken to hang.
const hang = 90 * time.Second

// watchdog ends the connection of a test that hangs: nothing else frees the
// processes that wait for an answer, this one included.
func watchdog(t testing.TB, dev *fs.Device) {
	timer := time.AfterFunc(hang, func() {
		fmt.Fprintf(os.Stderr, "%s hangs; connection %d is aborted\n", t.Name(), dev.Conn)
		debug.SetTraceback("all")
		buf := make([]byte, 1<<20)
		os.Stderr.Write(buf[:runtime.Stack(buf, true)])
		if err := dev.Abort(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	})
	t.Cleanup(func() { timer.Stop() })
}

// start starts a process that talks in lines. What it logs fails the test.
func start(t testing.TB, cmd *exec.Cmd) *worker {
	t.Helper()
	w := &worker{cmd: cmd}
	w.in, _ = cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	cmd.Stderr = &failOnOutput{t: t}
	w.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return w
}

type failOnOutput struct{ t testing.TB }

func (f *failOnOutput) Write(b []byte) (int, error) {
	f.t.Errorf("subprocess says: %s", b)
	return len(b), nil
}

func (w *worker) expect(t testing.TB, want string) {
	t.Helper()
	if got := w.ask(t, ""); got != want {
		t.Fatalf("subprocess says %q, want %q", got, want)
	}
}

// send sends a line.
func (w *worker) send(t testing.TB, line string) {
	t.Helper()
	if _, err := io.WriteString(w.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// ask sends a line, unless it is empty, and returns the next answer.
func (w *worker) ask(t testing.TB, line string) string {
	t.Helper()
	if line != "" {
		w.send(t, line)
	}
	if !w.out.Scan() {
		t.Fatalf("subprocess ended instead of answering %q", line)
	}
	return w.out.Text()
}

// kill ends the worker as a crash would.
func (r *rig) kill() {
	r.worker.cmd.Process.Kill()
	r.worker.cmd.Wait()
	r.worker = nil
}

// refuse starts the answerer.
func (r *rig) refuse(errno syscall.Errno) {
	r.answerer = fs.StartAnswerer(r.dev, errno, slog.Default())
}

// suspend runs the worker's suspending sequence, lets it exit, and has the
// answerer answer and everything invalidated once more.
func (r *rig) suspend(limit time.Duration, errno syscall.Errno) fs.Drained {
	r.t.Helper()
	var d fs.Drained
	line := r.worker.ask(r.t, fmt.Sprintf("suspend %d %d", limit.Milliseconds(), int(errno)))
	if line == "served" { // Serve may return before Suspend's caller prints
		line = r.worker.ask(r.t, "")
	}
	if err := json.Unmarshal([]byte(line), &d); err != nil {
		r.t.Fatalf("%q: %v", line, err)
	}
	r.exitWorker()
	r.refuse(errno)
	if _, err := r.dev.InvalidateAll(r.t.Context()); err != nil {
		r.t.Error(err)
	}
	return d
}

func (r *rig) exitWorker() {
	io.WriteString(r.worker.in, "exit\n")
	for r.worker.out.Scan() {
	}
	if err := r.worker.cmd.Wait(); err != nil {
		r.t.Errorf("worker: %v", err)
	}
	r.worker = nil
}

// close unmounts and ends the worker. Whatever happened, no mount stays.
func (r *rig) close() {
	if r.worker == nil && r.answerer == nil {
		r.refuse(syscall.EIO)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.dev.Unmount(ctx, false); err != nil {
		r.t.Errorf("%v; users: %s", err, users(r.dir))
		r.dev.Abort()
		unix.Unmount(r.dir, unix.MNT_DETACH)
	}
	if r.answerer != nil {
		select {
		case <-r.answerer.Done():
		case <-time.After(5 * time.Second):
			// A process somewhere has taken the mount along into a name
			// space of its own.
			r.t.Log("the connection outlives the unmount and is aborted")
			r.dev.Abort()
			<-r.answerer.Done()
		}
	}
	if r.worker != nil {
		r.exitWorker()
	}
	r.dev.Close()
}

// users lists the processes that use a mount.
func users(dir string) string {
	out, _ := exec.Command("fuser", "-vm", dir).Output()
	return strings.TrimSpace(string(out))
}

// path is a path on the mount.
func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// must fails the test for an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
