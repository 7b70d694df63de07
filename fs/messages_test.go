package fs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A file that the kernel has cached is opened, read and closed without
// a message: it works while the worker is stopped.
func TestServer_Serve_OpensCostNoMessage(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			r := newRig(t, "mem", mode.cfg)
			use := func() error {
				f, err := os.Open(r.path("file"))
				if err != nil {
					return err
				}
				defer f.Close()
				b := make([]byte, 7)
				if _, err := f.ReadAt(b, 0); err != nil || string(b) != "content" {
					return fmt.Errorf("read %q: %w", b, err)
				}
				return f.Close()
			}
			must(t, os.WriteFile(r.path("file"), []byte("content"), 0o644))
			for range 4 { // writes back, reads, and asks for the times after each
				must(t, use())
			}

			must(t, r.withoutWorker(func() error {
				for range 100 {
					if err := use(); err != nil {
						return err
					}
				}
				return nil
			}))
		})
	}
}

// withoutWorker does something while the worker is stopped. It is an error if the
// kernel asks it anything.
func (r *rig) withoutWorker(do func() error) error {
	pid := r.worker.cmd.Process.Pid
	must(r.t, syscall.Kill(pid, syscall.SIGSTOP))
	resume := func() { syscall.Kill(pid, syscall.SIGCONT) }
	defer resume()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		resume()
		return errors.Join(errors.New("the kernel asked the worker"), <-done)
	}
}

// Where only root gets in and nothing is checked, the kernel does not ask for the
// attributes of a directory after a change, and nobody else gets in.
func TestServer_Serve_RootOnly(t *testing.T) {
	r := newRig(t, "mem", rootOnly.cfg)
	mayWrite := func() error { return unix.Access(r.dir, unix.W_OK) }
	must(t, mayWrite()) // learns that nobody answers ACCESS
	must(t, os.WriteFile(r.path("new"), nil, 0o644))
	must(t, r.withoutWorker(mayWrite))
	must(t, os.Chmod(r.dir, 0o777))
	stat := exec.Command("stat", r.path("new"))
	stat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := stat.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("another user: %v, %s", err, out)
	}
}

// TestServer_Serve_IOSize: programs that buffer by st_blksize send their data in a
// sixteenth of the messages that 4 KiB would take. The blocks that df counts are smaller.
func TestServer_Serve_IOSize(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			r := newRig(t, "mem", mode.cfg)
			p := r.path("file")
			must(t, os.WriteFile(p, make([]byte, 4096), 0o644))
			if st := stat(t, p); st.Blksize != 64<<10 {
				t.Errorf("st_blksize %d", st.Blksize)
			}
			var stx unix.Statx_t
			must(t, unix.Statx(unix.AT_FDCWD, p, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &stx))
			if stx.Blksize != 64<<10 {
				t.Errorf("stx_blksize %d", stx.Blksize)
			}
			var fs unix.Statfs_t
			must(t, unix.Statfs(p, &fs))
			if fs.Bsize != 4096 || fs.Frsize != 4096 {
				t.Errorf("statfs: blocks of %d, fragments of %d bytes", fs.Bsize, fs.Frsize)
			}
		})
	}
}
