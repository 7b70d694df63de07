package drill

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// searchFiles looks for a text in all files of a folder and in their names, and
// returns where it is.
func searchFiles(dir, text string) (found []string, searched int, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // replaced meanwhile
		}
		if err != nil {
			return err
		}
		if strings.Contains(e.Name(), text) {
			found = append(found, path)
		}
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		searched++
		if holds(f, text) {
			found = append(found, path)
		}
		return nil
	})
	return found, searched, err
}

// searchMemory looks for a text in the memory of a process and returns where it
// is, and how many bytes were looked at. A process that has ended has none.
func searchMemory(pid int, text string) (found []string, searched int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if gone(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if gone(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var perm string
		// The table of nodes spans far more than a disk's size of nothing.
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); n < 3 || perm[0] != 'r' || strings.Contains(line, "memfd:") || strings.Contains(line, "[v") {
			continue
		}
		part := &counter{r: io.NewSectionReader(mem, from, to-from)}
		if holds(part, text) {
			found = append(found, fmt.Sprintf("process %d at %x", pid, from))
		}
		searched += part.n
	}
	return found, searched, nil
}

// gone says that a process has ended.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// holds reads as far as it can and says whether the text was there.
func holds(r io.Reader, text string) bool {
	const chunk = 1 << 20 // bytes
	buf := make([]byte, 0, chunk+len(text))
	for {
		keep := min(len(buf), len(text)-1)
		buf = append(buf[:0], buf[len(buf)-keep:]...)
		n, err := io.ReadFull(r, buf[keep:keep+chunk])
		buf = buf[:keep+n]
		if bytes.Contains(buf, []byte(text)) {
			return true
		}
		if err != nil {
			return false // its end, or memory that cannot be read
		}
	}
}
