package stress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// tree is what a walk has found.
type tree struct {
	dirs  map[uint64]string // by inode: where it is
	files map[uint64]links  // by inode
	names int64
}

// links are the names of a file that were found, and how many it says it has.
type links struct{ found, nlink uint32 }

// check walks everything. Nobody works any more.
func (r *run) check() error {
	t := &tree{dirs: map[uint64]string{}, files: map[uint64]links{}}
	if err := r.walk(t, r.Root(), "", 0); err != nil {
		return err
	}
	if len(t.dirs) != dirCount {
		return fmt.Errorf("%d of %d directories are reachable: %v", len(t.dirs), dirCount, t.dirs)
	}
	for ino, l := range t.files {
		if l.found != l.nlink {
			return fmt.Errorf("inode %d has %d links and %d names", ino, l.nlink, l.found)
		}
	}
	if want := r.names.Load(); !r.Replace && t.names != want {
		return fmt.Errorf("there are %d names of files, want %d", t.names, want)
	}
	return nil
}

func (r *run) walk(t *tree, dir Dir, path string, depth int) error {
	if depth > dirCount {
		return fmt.Errorf("%s: directories form a ring", path)
	}
	entries, err := r.Entries(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	seen := map[string]bool{}
	var all []error
	for _, e := range entries {
		where := path + "/" + e.Name
		if seen[e.Name] {
			all = append(all, fmt.Errorf("%s is there twice", where))
		}
		seen[e.Name] = true
		if !e.IsDir {
			all = append(all, r.file(t, dir, e, where))
			continue
		}
		if other, twice := t.dirs[e.Ino]; twice {
			return fmt.Errorf("one directory is in two places: %s and %s", other, where)
		}
		t.dirs[e.Ino] = where
		child, err := r.Open(dir, e.Name)
		if err == nil {
			err = r.walk(t, child, where, depth+1)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// file counts a name, and looks at the content behind the first one.
func (r *run) file(t *tree, dir Dir, e Entry, path string) error {
	t.names++
	l := t.files[e.Ino]
	l.found, l.nlink = l.found+1, e.Nlink
	t.files[e.Ino] = l
	if l.found > 1 {
		return nil
	}
	f, err := r.OpenFile(dir, e.Name)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for b := range uint64(blocks + mapped) {
		p := make([]byte, blockSize)
		if _, err := f.ReadAt(p, int64(b*blockSize)); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w", path, err)
		}
		tag := binary.LittleEndian.Uint64(p)
		for i := 0; i < blockSize; i += 8 {
			if other := binary.LittleEndian.Uint64(p[i:]); other != tag {
				return fmt.Errorf("%s: block %d has %#x and %#x", path, b, tag, other)
			}
		}
		if err := r.serial.check(place{f.Ino(), b}, tag); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
