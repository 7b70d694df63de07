package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// manifest is the SHA-256 of every regular file, by path below the root.
type manifest map[string][sha256.Size]byte

// read makes the manifest of a tree, reporting progress as it goes.
func (d *demo) read(root, what string) (manifest, int64, error) {
	var paths []string
	var total int64 // bytes
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		total += info.Size()
		paths = append(paths, p)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	var (
		mu    sync.Mutex
		m     = manifest{}
		errs  []error
		done  atomic.Int64
		queue = make(chan string)
		wg    sync.WaitGroup
	)
	stop := d.progress(&done, total, what)
	defer stop()
	for range 4 {
		wg.Go(func() {
			for p := range queue {
				sum, n, err := sumFile(p)
				done.Add(n)
				rel, relErr := filepath.Rel(root, p)
				mu.Lock()
				m[rel] = sum
				if err := errors.Join(err, relErr); err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
			}
		})
	}
	for _, p := range paths {
		queue <- p
	}
	close(queue)
	wg.Wait()
	if len(errs) > 0 {
		return nil, 0, fmt.Errorf("%d files could not be read, first: %w", len(errs), errs[0])
	}
	return m, total, nil
}

func sumFile(path string) (sum [sha256.Size]byte, n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), n, err
}

// verify reads a tree again and compares it with its manifest.
func (d *demo) verify(root string, want manifest) error {
	got, bytes, err := d.read(root, "reading back")
	if err != nil {
		return err
	}
	if !maps.Equal(got, want) {
		for _, p := range slices.Sorted(maps.Keys(want)) {
			if got[p] != want[p] {
				return fmt.Errorf("%d files read back, %d written; the first that differs is %s", len(got), len(want), p)
			}
		}
		return fmt.Errorf("%d files read back, %d written", len(got), len(want))
	}
	d.Say("%d files, %.0f MB: every SHA-256 matches", len(got), float64(bytes)/1e6)
	return nil
}

// unpack copies a folder into a mount through two tars, as people do.
func (d *demo) unpack(parent, name, into string, total int64) error {
	pack := exec.CommandContext(d.Ctx, "tar", "-C", parent, "-cf", "-", name)
	unpack := exec.CommandContext(d.Ctx, "tar", "-C", into, "-xf", "-")
	pack.Stderr, unpack.Stderr = os.Stderr, os.Stderr
	out, err := pack.StdoutPipe()
	if err != nil {
		return err
	}
	var done atomic.Int64
	unpack.Stdin = io.TeeReader(out, countTo{&done})
	stop := d.progress(&done, total, "unpacking")
	defer stop()
	if err := pack.Start(); err != nil {
		return err
	}
	if err := unpack.Run(); err != nil {
		return fmt.Errorf("unpacking the tree: %w", err)
	}
	return pack.Wait()
}

// countTo adds up the bytes written to it.
type countTo struct{ n *atomic.Int64 }

func (c countTo) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// progress says every two seconds how far something is, until stopped.
func (d *demo) progress(done *atomic.Int64, total int64, what string) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			case <-time.After(2 * time.Second):
				d.Say("  %s: %d of %d MB", what, done.Load()/1e6, total/1e6)
			}
		}
	}()
	return func() { close(quit); <-ended }
}
