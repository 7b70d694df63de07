package workload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	nameCount = 12
	// emptyFile is the value of a name whose file has nothing in it yet.
	emptyFile = 1
	// isThere is the value of a directory or of a link that is there.
	isThere  = 2
	nameSize = 200 // bytes of a file
)

// names makes, links, renames, exchanges and removes files, directories and
// symbolic links, and looks at them.
func (w *worker) names() error {
	name, other := fmt.Sprintf("n%d", w.rng.IntN(nameCount)), fmt.Sprintf("n%d", w.rng.IntN(nameCount))
	for _, n := range []string{name, other} {
		if !w.ledger.at(n).certain() {
			return w.seeName(n)
		}
	}
	v, o := w.ledger.at(name).acked, w.ledger.at(other).acked
	switch p := w.rng.IntN(100); {
	case p < 10:
		return w.special(fmt.Sprintf("d%d", w.rng.IntN(3)), "mkdir", "rmdir",
			func(path string) error { return os.Mkdir(path, 0o755) })
	case p < 20:
		return w.special(fmt.Sprintf("s%d", w.rng.IntN(3)), "symlink", "unlink",
			func(path string) error { return os.Symlink("where it points", path) })
	case p < 28:
		return w.list()
	case v == 0:
		return w.create(name)
	case name == other || v == o:
		return w.seeName(name)
	case p < 45:
		return w.ledger.do(func() error {
			return w.call(metadata, "unlink", func() error { return os.Remove(w.path(name)) })
		}, set{name, 0})
	case p < 60:
		return w.ledger.do(func() error {
			return w.call(metadata, "rename", func() error { return os.Rename(w.path(name), w.path(other)) })
		}, set{name, 0}, set{other, v})
	case p < 70 && o != 0:
		return w.ledger.do(func() error {
			return w.call(metadata, "renameat2", func() error {
				return unix.Renameat2(unix.AT_FDCWD, w.path(name), unix.AT_FDCWD, w.path(other), unix.RENAME_EXCHANGE)
			})
		}, set{name, o}, set{other, v})
	case p < 80 && o == 0:
		return w.ledger.do(func() error {
			return w.call(metadata, "link", func() error { return os.Link(w.path(name), w.path(other)) })
		}, set{other, v})
	default:
		return w.seeName(name)
	}
}

// create makes a file and fills it; between the two it is empty.
func (w *worker) create(name string) error {
	gen := w.generate()
	var f *os.File
	err := w.ledger.do(func() error {
		return w.call(metadata, "create", func() (err error) {
			f, err = os.OpenFile(w.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			return err
		})
	}, set{name, emptyFile})
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, nameSize)
	fill(b, w.job.Seed, "name", gen)
	return w.ledger.do(func() error {
		return w.call(write, "write", func() error { _, err := f.Write(b); return err })
	}, set{name, gen})
}

// special makes something that is only there or not, or removes it.
func (w *worker) special(name, makes, removes string, make func(path string) error) error {
	c := w.ledger.at(name)
	if !c.certain() {
		return w.seeName(name)
	}
	if c.acked == 0 {
		return w.ledger.do(func() error {
			return w.call(metadata, makes, func() error { return make(w.path(name)) })
		}, set{name, isThere})
	}
	return w.ledger.do(func() error {
		return w.call(metadata, removes, func() error { return os.Remove(w.path(name)) })
	}, set{name, 0})
}

// seeName looks at a name and notes what it is, if that was open.
func (w *worker) seeName(name string) error {
	var v uint64
	err := w.call(read, "open and read", func() (err error) {
		v, err = nameValue(w.job.Seed, w.path(name))
		return err
	})
	if err != nil {
		return err
	}
	c := w.ledger.at(name)
	if !c.allows(name, v) {
		w.wrong("%s is %d, allowed is %v", name, v, c.allowed())
	}
	if !c.certain() || c.acked != v {
		w.ledger.noteSets(lineSeen, []set{{name, v}})
	}
	return nil
}

// damaged is the value of a name with content that nobody wrote.
const damaged = 3

// nameValue returns the value of a name on the volume.
func nameValue(seed uint64, path string) (uint64, error) { return nameValueOf(seed, "name", path) }

// nameValueOf is nameValue for files with content of another place.
func nameValueOf(seed uint64, place, path string) (uint64, error) {
	// Absent for real only while the volume is mounted: its folder is there.
	if _, err := os.Lstat(filepath.Dir(path)); err != nil {
		return 0, err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		_, err := os.Lstat(filepath.Dir(path))
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	if info.IsDir() {
		return isThere, nil
	}
	if info.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		if err == nil && to != "where it points" {
			return damaged, nil
		}
		return isThere, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return emptyFile, nil
	}
	gen, ok := generation(b, seed, place)
	if !ok {
		return damaged, nil
	}
	return gen, nil
}

// list compares the directory's names with those that are certain.
func (w *worker) list() error {
	var entries []os.DirEntry
	err := w.call(read, "readdir", func() (err error) {
		entries, err = os.ReadDir(w.job.Dir)
		return err
	})
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
	}
	for place, c := range w.ledger.cells {
		if c.certain() && !strings.Contains(place, "#") && there[place] != (c.acked != 0) {
			w.wrong("readdir shows %s: %t, want %t", place, there[place], c.acked != 0)
		}
	}
	return nil
}
