package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Isolate runs this program again with the same arguments in process and mount
// namespaces of its own, and returns its exit code. Whatever it mounts, nobody
// else sees, and when it ends, in whatever way, everything that it has started
// ends with it. The program calls Enter there before anything else.
func Isolate(ctx context.Context, args []string, stdout, stderr io.Writer) (exit int, err error) {
	// It ends when we do: its end of the pipe says so.
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	tmp, err := os.MkdirTemp("", "cmkfs-drills-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o711); err != nil { // others' programs work inside
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, insideEnv+"="+tmp)
	cmd.ExtraFiles = []*os.File{r} // lifeFD
	// The mount namespace becomes private, so that nothing spreads from it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS}
	err = cmd.Start()
	r.Close()
	if err != nil {
		return 0, fmt.Errorf("a drill needs namespaces of its own: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err = cmd.Wait()
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.ExitCode() >= 0 {
		return failed.ExitCode(), nil
	}
	return 0, err
}

const (
	insideEnv = "CMKFS_DRILL_INSIDE" // set in the namespaces: the folder of all drills, or second
	second    = "second"             // in their second process
	lifeFD    = 3                    // at whose end the one who waits for us is gone
)

// Inside says whether this process is one that Isolate has started.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Enter makes the namespaces usable, and returns in a process that is to go on
// there. The first process of a namespace takes in all that have lost their
// parents, and takes all others along when it ends; it does nothing else.
func Enter() error {
	dir := os.Getenv(insideEnv)
	if err := os.Unsetenv(insideEnv); err != nil {
		return err
	}
	if dir == second {
		return nil
	}
	life := os.NewFile(lifeFD, "life")
	unix.CloseOnExec(lifeFD)
	var abandoned atomic.Bool
	go func() {
		_, _ = life.Read(make([]byte, 1))
		abandoned.Store(true)
		abandon(dir)
	}()
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("a drill's own /proc: %w", err)
	}
	if err := letGo(); err != nil {
		return err
	}
	process, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: append(os.Environ(), insideEnv+"="+second),
	})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Reset(syscall.SIGTERM)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		for s := range signals {
			_ = process.Signal(s)
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case abandoned.Load():
			select {} // it ends us
		case err != nil:
			return err
		case pid == process.Pid && status.Exited():
			os.Exit(status.ExitStatus())
		case pid == process.Pid:
			return fmt.Errorf("the drill ended by a signal: %s", status.Signal())
		}
	}
}

// abandon ends everything at once: whoever waited for the drill is gone.
func abandon(dir string) {
	_ = unix.Kill(-1, unix.SIGKILL) // all of the namespace but us
	time.Sleep(500 * time.Millisecond)
	if err := letGo(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(1)
}

// letGo lets go of the FUSE mounts that the namespace has copies of: others
// unmount them meanwhile, and a copy would keep them from ending.
func letGo() error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if i := strings.Index(lines.Text(), " - fuse"); i > 0 && len(fields) > 4 {
			points = append(points, fields[4])
		}
	}
	for _, p := range points {
		_ = unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // a copy more or less
	}
	return nil
}
