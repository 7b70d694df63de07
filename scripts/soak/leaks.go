package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// leakColumns are those of the table that a search for leaks writes. Memory is
// in KiB; goroutines are empty where a process does not tell.
var leakColumns = []string{"seconds", "round", "process", "pid", "rss", "anon", "file", "shmem", "fds", "threads", "goroutines"}

// leaks unpacks a source tree, compares it and removes it, again and again, and
// meanwhile looks at every process's memory, descriptors and goroutines.
type leaks struct {
	*soak
	tarball string
	every   time.Duration
	start   time.Time
	round   int
	out     *csv.Writer
	seen    map[string][]sample // by process
}

// sample is what is compared at the end.
type sample struct{ rss, fds, goroutines int }

// findLeaks runs for a time and returns what it saw.
func (s *soak) findLeaks(length, every time.Duration, source, path string) (string, error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	l := &leaks{soak: s, tarball: s.Path("tree.tar"), every: every, start: time.Now(), out: csv.NewWriter(f), seen: map[string][]sample{}}
	if err := l.out.Write(leakColumns); err != nil {
		return "", err
	}
	if source == "" {
		root, err := s.Do("go", "env", "GOROOT")
		if err != nil {
			return "", err
		}
		source = filepath.Join(strings.TrimSpace(root), "src")
	}
	if _, err := s.Do("tar", "-C", filepath.Dir(source), "-cf", l.tarball, filepath.Base(source)); err != nil {
		return "", err
	}
	if err := s.mountVolume(); err != nil {
		return "", err
	}
	done, watched := make(chan struct{}), make(chan error, 1)
	go func() { watched <- l.watch(done) }()
	for err == nil && time.Since(l.start) < length {
		l.round++
		err = l.turn()
	}
	close(done)
	if err = errors.Join(err, <-watched); err != nil {
		return "", err
	}
	if err := s.finish(); err != nil {
		return "", err
	}
	return l.verdict()
}

// turn is one round: every file is written, read back and deleted.
func (l *leaks) turn() error {
	const limit = 10 * time.Minute
	dir := filepath.Join(l.mount, fmt.Sprint("round", l.round))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"tar", "-C", dir, "-xf", l.tarball},
		{"tar", "-C", dir, "-df", l.tarball},
		{"rm", "-rf", dir},
	} {
		r, err := l.Try(limit, args[0], args[1:]...)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("round %d: %s: exit %d: %s", l.round, strings.Join(args, " "), r.Code, r.Stderr+r.Stdout)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watch looks at the processes until done.
func (l *leaks) watch(done chan struct{}) error {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		if err := l.look(); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
	}
}

// look writes a line for each process.
func (l *leaks) look() error {
	st, err := l.Status()
	if err != nil {
		return err
	}
	tell := func(process string, pid, goroutines int) error {
		if pid == 0 {
			return nil
		}
		p, err := processMemory(pid)
		if errors.Is(err, os.ErrNotExist) {
			return nil // a key agent ends after each use
		}
		if err != nil {
			return err
		}
		number := ""
		if goroutines > 0 {
			number = strconv.Itoa(goroutines)
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return nil // as above
		}
		l.seen[process] = append(l.seen[process], sample{p["VmRSS"], len(fds), goroutines})
		return l.out.Write([]string{fmt.Sprintf("%.0f", time.Since(l.start).Seconds()), strconv.Itoa(l.round), process, strconv.Itoa(pid),
			strconv.Itoa(p["VmRSS"]), strconv.Itoa(p["RssAnon"]), strconv.Itoa(p["RssFile"]), strconv.Itoa(p["RssShmem"]),
			strconv.Itoa(len(fds)), strconv.Itoa(p["Threads"]), number})
	}
	for _, a := range st.Accounts {
		for _, v := range a.Volumes {
			if err := tell("worker", v.WorkerPID, v.Goroutines); err != nil {
				return err
			}
		}
	}
	if err := errors.Join(tell("supervisor", st.PID, st.Goroutines), tell("key agent", st.KeyAgentPID, 0)); err != nil {
		return err
	}
	l.out.Flush()
	return l.out.Error()
}

// processMemory reads the numbers in a process's status file, memory in KiB.
func processMemory(pid int) (map[string]int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.Atoi(f[0]); err == nil {
				found[name] = n
			}
		}
	}
	return found, nil
}

// verdict compares the second quarter of the time with the last: caches are full
// by then. Descriptors and goroutines must not have become more.
func (l *leaks) verdict() (string, error) {
	var lines []string
	var err error
	for _, process := range []string{"worker", "supervisor", "key agent"} {
		all := l.seen[process]
		quarter := len(all) / 4
		if quarter == 0 {
			continue
		}
		early, late := all[quarter:2*quarter], all[len(all)-quarter:]
		median := func(of []sample, field func(sample) int) int {
			var n []int
			for _, s := range of {
				if v := field(s); v > 0 { // 0 = it was too busy to tell
					n = append(n, v)
				}
			}
			if slices.Sort(n); len(n) == 0 {
				return 0
			}
			return n[len(n)/2]
		}
		text := process + ":"
		for _, f := range []struct {
			name  string
			of    func(sample) int
			slack int // what is no growth; 0 = not judged
		}{
			{"KiB resident", func(s sample) int { return s.rss }, 0},
			{"descriptors", func(s sample) int { return s.fds }, 4},
			{"goroutines", func(s sample) int { return s.goroutines }, 4},
		} {
			a, b := median(early, f.of), median(late, f.of)
			text += fmt.Sprintf(" %s %d, then %d;", f.name, a, b)
			if f.slack > 0 && b > a+f.slack {
				err = errors.Join(err, fmt.Errorf("%s: %s grew from %d to %d", process, f.name, a, b))
			}
		}
		lines = append(lines, strings.TrimSuffix(text, ";"))
	}
	if len(lines) == 0 {
		return "", errors.New("too short to compare anything")
	}
	return fmt.Sprintf("%d rounds. %s", l.round, strings.Join(lines, ". ")), err
}
