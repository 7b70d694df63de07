package fs_test

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
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

			pid := r.worker.cmd.Process.Pid
			must(t, syscall.Kill(pid, syscall.SIGSTOP))
			resume := func() { syscall.Kill(pid, syscall.SIGCONT) }
			defer resume()
			done := make(chan error, 1)
			go func() {
				for range 100 {
					if err := use(); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
			var err error
			select {
			case err = <-done:
			case <-time.After(20 * time.Second):
				resume()
				err = errors.Join(errors.New("the kernel asked the worker"), <-done)
			}
			resume()
			must(t, err)
		})
	}
}
