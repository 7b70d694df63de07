// Smallfiles runs one phase of a small-file metadata benchmark and times it.
// scripts/fsbench builds and runs it.
//
// Usage: smallfiles -dir D -phase create|stat|read|rename|unlink
//
//	[-files 10000] [-dirs 100] [-size 4096] [-threads 1]
//
// File i lives in D/d<i mod dirs>/f<i>; "rename" moves it to .../r<i> and
// "unlink" removes whichever of the two is there. Each thread takes every
// threads-th file. Prints one JSON object: phase, ops, seconds, ops_per_s.
//
// Usage: smallfiles -dir D -phase mixed [-seconds 15] [-beside F [-rate N]] [-watch F]
//
// All of these operations in turn, each timed: the object has p50, p99, p999 and
// max, in microseconds, and how often the watched file changed.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
	"time"
)

func main() {
	dir := flag.String("dir", "", "directory to work in")
	phase := flag.String("phase", "", "create, stat, read, rename, unlink or mixed")
	files := flag.Int("files", 10000, "number of files")
	dirs := flag.Int("dirs", 100, "number of directories")
	size := flag.Int("size", 4096, "bytes per file")
	threads := flag.Int("threads", 1, "worker threads")
	seconds := flag.Int("seconds", 15, "length of mixed")
	beside := flag.String("beside", "", "file to overwrite at random beside mixed")
	rate := flag.Int("rate", 0, "how often a second to overwrite at most, 0 = as often as it goes")
	watch := flag.String("watch", "", "file whose changes mixed counts")
	flag.Parse()
	if *dir == "" || *phase == "" || *files < 1 || *dirs < 1 || *threads < 1 || *size < 0 || *rate < 0 {
		flag.Usage()
		os.Exit(2)
	}

	sub := func(i int) string { return filepath.Join(*dir, fmt.Sprintf("d%03d", i)) }
	orig := func(i int) string { return filepath.Join(sub(i%*dirs), fmt.Sprintf("f%06d", i)) }
	moved := func(i int) string { return filepath.Join(sub(i%*dirs), fmt.Sprintf("r%06d", i)) }
	buf := make([]byte, *size)
	rand.New(rand.NewSource(1)).Read(buf)

	var op func(i int) error
	switch *phase {
	case "create":
		op = func(i int) error {
			f, err := os.OpenFile(orig(i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			if _, err = f.Write(buf); err != nil {
				f.Close()
				return err
			}
			return f.Close()
		}
	case "stat":
		op = func(i int) error {
			st, err := os.Lstat(orig(i))
			if err == nil && st.Size() != int64(*size) {
				err = fmt.Errorf("%s: size %d, want %d", orig(i), st.Size(), *size)
			}
			return err
		}
	case "read":
		op = func(i int) error {
			f, err := os.Open(orig(i))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.ReadFull(f, make([]byte, *size))
			return err
		}
	case "rename":
		op = func(i int) error { return os.Rename(orig(i), moved(i)) }
	case "unlink":
		op = func(i int) error {
			err := os.Remove(moved(i))
			if os.IsNotExist(err) {
				err = os.Remove(orig(i))
			}
			return err
		}
	case "mixed":
		said, err := mixed(*dir, buf, time.Duration(*seconds)*time.Second, *beside, *rate, *watch)
		check(err)
		check(json.NewEncoder(os.Stdout).Encode(said))
		return
	default:
		fmt.Fprintf(os.Stderr, "smallfiles: no phase %q\n", *phase)
		os.Exit(2)
	}

	start := time.Now()
	if *phase == "create" {
		for i := 0; i < *dirs; i++ {
			check(os.MkdirAll(sub(i), 0o755))
		}
	}
	var wg sync.WaitGroup
	for t := 0; t < *threads; t++ {
		wg.Add(1)
		go func(t int) {
			defer wg.Done()
			for i := t; i < *files; i += *threads {
				check(op(i))
			}
		}(t)
	}
	wg.Wait()
	if *phase == "unlink" {
		for i := 0; i < *dirs; i++ {
			check(os.Remove(sub(i)))
		}
	}
	sec := time.Since(start).Seconds()
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"phase": *phase, "ops": *files, "seconds": sec, "ops_per_s": float64(*files) / sec,
	}))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "smallfiles:", err)
		os.Exit(1)
	}
}
