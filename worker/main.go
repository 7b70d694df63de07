package worker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// Arguments after the command's name. The directory is an argument because it
// must be known before the first message is read, and so that ps shows which
// volume a worker belongs to.
const (
	argDir        = "--dir="
	argStage2     = "--stage2"
	argLockMemory = "--lock-memory"
)

// Args returns the arguments to start a worker for a volume's directory with.
func Args(dir string) []string { return []string{argDir + dir} }

// Main is the whole of a worker process; it does not return. Nothing else may
// have read the inherited descriptors.
func Main() {
	runtime.LockOSThread()
	var dir string
	for _, a := range os.Args {
		if d, ok := strings.CutPrefix(a, argDir); ok {
			dir = d
		}
	}
	if slices.Contains(os.Args, argStage2) {
		runtime.UnlockOSThread()
		os.Exit(stage2(slices.Contains(os.Args, argLockMemory)))
	}
	fmt.Fprintln(os.Stderr, "cmkfsd worker:", stage1(dir)) // returns only with an error
	os.Exit(ExitFailed)
}

// maxNice allows every priority: it stands for 20 less itself, -20.
const maxNice = 40

// stage1 confines the thread and executes stage 2 on it.
func stage1(dir string) error {
	if dir == "" {
		return errors.New("this command is started by cmkfsd serve, not by hand")
	}
	args := append(slices.Clone(os.Args), argStage2)
	lock, keep := canLockMemory()
	if lock {
		args = append(args, argLockMemory)
	}
	// For the threads that empty the kernel's caches at a suspension. Without the
	// privilege they are as slow as everything else.
	_ = unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{Cur: maxNice, Max: maxNice})
	if err := confineThread(dir, keep); err != nil {
		return fmt.Errorf("cannot confine the process: %w", err)
	}
	if err := syscall.Exec("/proc/self/exe", args, os.Environ()); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	return nil
}

// canLockMemory says whether locking memory is of use, which needs a swap
// device, and without danger: with a limit on locked memory, allocations
// beyond it would fail. Where the limit cannot be raised, the process keeps the
// one capability that stands above it, if it has it.
func canLockMemory() (lock bool, keep capSet) {
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil || strings.Count(string(swaps), "\n") < 2 {
		return false, 0
	}
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited) == nil {
		return true, 0
	}
	have, err := capabilities()
	if err != nil || have&capIPCLock == 0 {
		return false, 0
	}
	return true, capIPCLock
}

// stage2 is the confined process.
func stage2(lockMemory bool) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("proc", "worker", "pid", os.Getpid())
	slog.SetDefault(log)
	if err := enterStage2(lockMemory); err != nil {
		log.Error("cannot confine the process", "err", err)
		return ExitFailed
	}
	conn, err := NewConn(os.NewFile(FDControl, "control"))
	if err != nil {
		log.Error("no control socket", "err", err)
		return ExitFailed
	}
	w := &process{conn: conn, log: log, requests: make(chan message)}
	return w.run()
}

func enterStage2(lockMemory bool) error {
	var kept capSet
	if lockMemory {
		kept = capIPCLock
	}
	if err := checkConfined(kept); err != nil {
		return err
	}
	if err := hideMemory(); err != nil { // exec made it dumpable again
		return err
	}
	if lockMemory {
		// Keys and contents shall not reach a swap device. Locked when touched,
		// or the whole index would be read into memory.
		if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
			slog.Warn("memory may be swapped", "err", err)
		}
	}
	return filterCalls()
}

// limitHeap makes the garbage collector work harder before the process takes
// more memory than it needs: for serving, what an open volume does, whatever its
// size; a check knows every file and block, and gets a quarter of the machine.
func limitHeap(mode Mode) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	const least = 256 << 20 // bytes
	limit := int64(meta.HeapLimit)
	if mode == ModeCheck {
		var info unix.Sysinfo_t
		if unix.Sysinfo(&info) != nil {
			return
		}
		limit = max(least, int64(info.Totalram)*int64(info.Unit)/4)
	}
	debug.SetMemoryLimit(limit)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(meta.GCPercent)
	}
}

// message is a request with the descriptors that came with it.
type message struct {
	Request
	files []*os.File
}

// process is a confined worker.
type process struct {
	conn     *Conn
	log      *slog.Logger
	requests chan message // closed when the supervisor is gone
}

func (w *process) run() int {
	go w.receive()
	r, ok := <-w.requests
	if !ok {
		return ExitOrphan
	}
	if r.Start == nil {
		return w.fail(ClassOther, errors.New("the first message is not a start"))
	}
	start := *r.Start
	limitHeap(start.Mode)
	w.log = w.log.With("vol", start.Label)
	slog.SetDefault(w.log)
	dir, err := store.OpenDir(start.Dir)
	if err != nil {
		return w.fail(ClassOther, fmt.Errorf("volume directory: %w", err))
	}
	switch {
	case start.Mode == ModeServe && start.Lease != nil:
		return w.serve(dir, &start)
	case start.Mode == ModeFormat && start.Format != nil:
		return w.format(dir, *start.Format)
	case start.Mode == ModeCheck && start.Check != nil:
		return w.check(dir, *start.Check, start.Newest)
	case start.Mode == ModeReseal:
		return w.reseal(dir)
	}
	return w.fail(ClassOther, fmt.Errorf("start without what mode %q needs", start.Mode))
}

// receive is the one reader of the control socket.
func (w *process) receive() {
	defer close(w.requests)
	for {
		var m message
		var err error
		if m.files, err = w.conn.Receive(&m.Request); err != nil {
			if !errors.Is(err, io.EOF) {
				w.log.Error("control socket", "err", err)
			}
			return
		}
		w.requests <- m
	}
}

// fail reports why the worker gives up.
func (w *process) fail(class Class, err error) int {
	w.log.Error("worker failed", "class", class, "err", err)
	if err := w.conn.Send(Reply{Failed: &Failed{Class: class, Reason: err.Error()}}); err != nil {
		return ExitOrphan
	}
	return ExitFailed
}
