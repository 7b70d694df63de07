package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// mixed makes, reads, renames and removes files for a time and says how long
// single operations took. If a file is given, another client overwrites random
// blocks of it meanwhile, rate times a second or, for 0, as fast as it can; how many
// it did is said, too, because a file system that does more of them has less time
// for the rest.
func mixed(dir string, data []byte, length time.Duration, beside string, rate int, watch string) (map[string]any, error) {
	end := time.Now().Add(length)
	var background sync.WaitGroup
	var besideErr error
	overwrites, changes := 0, 0
	background.Go(func() { overwrites, besideErr = overwrite(beside, len(data), rate, end) })
	background.Go(func() { changes = countChanges(watch, end) })
	start := time.Now()
	took, err := turnOver(dir, data, end)
	seconds := time.Since(start).Seconds()
	background.Wait()
	if err = errors.Join(err, besideErr); err != nil {
		return nil, err
	}
	slices.Sort(took)
	at := func(permille int) float64 { return float64(took[(len(took)-1)*permille/1000].Microseconds()) }
	return map[string]any{
		"phase": "mixed", "ops": len(took), "seconds": seconds, "ops_per_s": float64(len(took)) / seconds,
		"p50": at(500), "p99": at(990), "p999": at(999), "max": at(1000),
		"overwrites_per_s": float64(overwrites) / length.Seconds(), "changes": changes,
	}, nil
}

// alive is how many files turnOver keeps.
const alive = 200

// turnOver has files live through make, stat, read, rename and remove, one
// operation after the other, and returns the time each took.
func turnOver(dir string, data []byte, end time.Time) ([]time.Duration, error) {
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("m%07d", i)) }
	moved := func(i int) string { return name(i) + "r" }
	steps := []struct {
		age int // of the file it is for, in rounds
		do  func(i int) error
	}{
		{0, func(i int) error { return os.WriteFile(name(i), data, 0o644) }},
		{alive / 4, func(i int) error { _, err := os.Lstat(name(i)); return err }},
		{alive / 2, func(i int) error { _, err := os.ReadFile(name(i)); return err }},
		{alive * 3 / 4, func(i int) error { return os.Rename(name(i), moved(i)) }},
		{alive, func(i int) error { return os.Remove(moved(i)) }},
	}
	var took []time.Duration
	for i := 0; i <= alive || time.Now().Before(end); i++ {
		for _, s := range steps {
			if i < s.age {
				continue
			}
			start := time.Now()
			if err := s.do(i - s.age); err != nil {
				return nil, err
			}
			took = append(took, time.Since(start))
		}
	}
	return took, nil
}

// overwrite writes blocks of a file in random order until a time, at most rate a
// second unless that is 0, and counts them.
func overwrite(path string, block, rate int, end time.Time) (n int, err error) {
	if path == "" {
		return 0, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size < int64(block) {
		err = fmt.Errorf("%s is smaller than a block", path)
	}
	random, data := rand.New(rand.NewSource(2)), make([]byte, block)
	start := time.Now()
	for ; err == nil && time.Now().Before(end); n++ {
		if rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(rate))))
		}
		random.Read(data[:64])
		_, err = f.WriteAt(data, random.Int63n(size/int64(block))*int64(block))
	}
	return n, errors.Join(err, f.Close())
}

// countChanges counts how often a file's time of modification changes until a
// time, looking twenty times a second.
func countChanges(path string, end time.Time) int {
	changes := 0
	var last time.Time
	for path != "" && time.Now().Before(end) {
		if st, err := os.Stat(path); err == nil && !st.ModTime().Equal(last) {
			if !last.IsZero() {
				changes++
			}
			last = st.ModTime()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return changes
}
