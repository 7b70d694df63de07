package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// probes are programs' threads that try, each in its own way and all the time,
// to get something of the volume.
type probes struct {
	ended chan struct{}
	wait  sync.WaitGroup
	file  *os.File
	last  atomic.Int64 // when something succeeded last, Unix nanoseconds
	first atomic.Int64 // when a read did for the first time after await
}

func startProbes(mount string) (*probes, error) {
	path := filepath.Join(mount, "probe")
	// Made anew, it is the last of all inodes that are taken from the kernel.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	p := &probes{ended: make(chan struct{}), file: f}
	ways := map[string]func() error{
		"read": func() error {
			_, err := f.ReadAt(make([]byte, 4096), 8192)
			if err == nil {
				p.first.CompareAndSwap(0, time.Now().UnixNano())
			}
			return err
		},
		"fstat": func() error { _, err := f.Stat(); return err },
		"write": func() error { _, err := f.WriteAt(make([]byte, 4096), 65536); return err },
		"stat": func() error {
			var st syscall.Stat_t
			return syscall.Stat(path, &st)
		},
		"open": func() error {
			g, err := os.Open(path)
			if err == nil {
				g.Close()
			}
			return err
		},
		"readdir": func() error { _, err := os.ReadDir(mount); return err },
		"create": func() error {
			name := filepath.Join(mount, "created")
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				return err
			}
			return os.Remove(name)
		},
	}
	for _, try := range ways {
		p.wait.Go(func() {
			for {
				select {
				case <-p.ended:
					return
				default:
				}
				if try() == nil {
					now := time.Now().UnixNano()
					for was := p.last.Load(); was < now && !p.last.CompareAndSwap(was, now); was = p.last.Load() {
					}
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return p, nil
}

// lastSuccess returns when a probe got something last.
func (p *probes) lastSuccess() time.Time { return time.Unix(0, p.last.Load()) }

// await begins to wait for a read that succeeds.
func (p *probes) await() { p.first.Store(0) }

// firstRead returns when the first read succeeded since await.
func (p *probes) firstRead() (time.Time, error) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if at := p.first.Load(); at != 0 {
			return time.Unix(0, at), nil
		}
	}
	return time.Time{}, errors.New("no read succeeds after the restore")
}

func (p *probes) stop() {
	close(p.ended)
	p.wait.Wait()
	if err := p.file.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "the probes' file:", err) // what was refused
	}
}
