package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// secret is a text that must be found nowhere once a volume is suspended: the
// demo writes it into a file, and a file's name is made of it.
type secret struct{ what, text string }

// searchState looks for secrets in every file of the state directory.
func (d *demo) searchState(secrets []secret) error {
	var files int
	err := filepath.WalkDir(d.State, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // replaced meanwhile
		} else if err != nil {
			return err
		}
		defer f.Close()
		files++
		return search(f, 1<<62, secrets, p)
	})
	if err == nil {
		d.Say("no content and no name in the %d files of the state directory", files)
	}
	return err
}

// searchMemory looks for secrets in the memory of the daemon and of its
// children.
func (d *demo) searchMemory(daemon int, secrets []secret) error {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	var processes int
	for _, path := range stats {
		// PID (NAME) STATE PARENT …, where NAME may hold anything.
		stat := string(readAll(path))
		after := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || len(after) < 2 || pid != daemon && after[1] != strconv.Itoa(daemon) {
			continue
		}
		processes++
		if err := searchProcess(pid, secrets); err != nil {
			return err
		}
	}
	if processes == 0 {
		return errors.New("found no cmkfsd process to search")
	}
	d.Say("no content and no name in the memory of the %d cmkfsd processes", processes)
	return nil
}

// searchProcess looks for secrets in every page a process has in memory or in
// swap. Pages it never touched are left alone: reading them would make them.
func searchProcess(pid int, secrets []secret) error {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if ended(err) {
		return nil
	} else if err != nil {
		return err
	}
	defer mem.Close()
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if ended(err) {
		return nil
	} else if err != nil {
		return err
	}
	defer pagemap.Close()
	for line := range strings.Lines(string(readAll(fmt.Sprintf("/proc/%d/maps", pid)))) {
		f := strings.Fields(line)
		var from, to int64
		if len(f) < 2 || f[1][0] != 'r' {
			continue
		}
		if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil || from < 0 {
			continue // [vsyscall]
		}
		where := fmt.Sprintf("process %d at %s", pid, f[0])
		for _, r := range touched(pagemap, from, to) {
			if err := search(io.NewSectionReader(mem, r[0], r[1]-r[0]), r[1]-r[0], secrets, where); err != nil {
				return err
			}
		}
	}
	return nil
}

// ended reports whether a file of a process is missing because the process has
// ended meanwhile: key agents are replaced all the time.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// touched returns the parts of a mapping that are in memory or in swap.
func touched(pagemap *os.File, from, to int64) (parts [][2]int64) {
	const entry = 8 // bytes in pagemap for each page
	page := int64(os.Getpagesize())
	entries := make([]byte, 64<<10)
	for from < to {
		n, err := pagemap.ReadAt(entries[:min(int64(len(entries)), (to-from)/page*entry)], from/page*entry)
		if n < entry {
			return append(parts, [2]int64{from, to}) // not told: read it all
		}
		for i := 0; i+entry <= n; i += entry {
			if entries[i+7]&0xc0 != 0 { // present, or swapped
				if last := len(parts) - 1; last >= 0 && parts[last][1] == from {
					parts[last][1] += page
				} else {
					parts = append(parts, [2]int64{from, from + page})
				}
			}
			from += page
		}
		if err != nil {
			break
		}
	}
	return parts
}

// search reads up to n bytes, as far as they can be read, and fails when a
// secret is among them.
func search(r io.Reader, n int64, secrets []secret, where string) error {
	const chunk, overlap = 1 << 20, 256 // bytes; no secret is longer than overlap
	buf := make([]byte, 0, chunk+overlap)
	for n > 0 {
		keep := min(len(buf), overlap)
		buf = append(buf[:0], buf[len(buf)-keep:]...)
		got, err := io.ReadFull(r, buf[keep:keep+int(min(n, chunk))])
		buf = buf[:keep+got]
		n -= int64(got)
		for _, s := range secrets {
			if bytes.Contains(buf, []byte(s.text)) {
				return fmt.Errorf("%s is in clear in %s", s.what, where)
			}
		}
		if err != nil {
			return nil // its end, or memory that cannot be read
		}
	}
	return nil
}

func readAll(path string) []byte {
	b, _ := os.ReadFile(path) // a process that ended has nothing to search
	return b
}
