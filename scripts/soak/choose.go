package main

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// choose picks the next operation.
func (a *actor) choose() change {
	names := slices.Sorted(maps.Keys(a.want))
	if len(names) == 0 || len(names) < maxFiles && a.rng.IntN(10) == 0 {
		return a.create()
	}
	name := names[a.rng.IntN(len(names))]
	switch n := a.rng.IntN(100); {
	case n < 45:
		return a.write(name)
	case n < 50:
		return a.truncate(name)
	case n < 58:
		return a.rename(name, fmt.Sprintf("f%d", a.rng.IntN(2*maxFiles)))
	case n < 63:
		return a.unlink(name)
	case n < 73:
		return change{what: "fsync", do: func() error {
			f, err := a.file(name)
			if err != nil {
				return err
			}
			return f.Sync()
		}}
	case n < 78:
		return change{what: "readdir", do: a.verifyNames}
	default:
		return change{what: "read", do: func() error { return a.verify(name) }}
	}
}

func (a *actor) create() change {
	var name string
	for taken := true; taken; _, taken = a.want[name] {
		name = fmt.Sprintf("f%d", a.rng.IntN(2*maxFiles))
	}
	return change{what: "create " + name, after: map[string][]byte{name: {}}, do: func() error {
		f, err := os.OpenFile(filepath.Join(a.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			a.open[name] = f
		}
		return err
	}}
}

// write overwrites or appends, from a few bytes to a hundred kilobytes.
func (a *actor) write(name string) change {
	before := a.want[name]
	length := 1 + a.rng.IntN([]int{100, 4096, 20_000, 100_000}[a.rng.IntN(4)])
	off := a.rng.IntN(len(before) + 2*block)
	if a.rng.IntN(2) == 0 {
		off, length = off/block*block, (length+block-1)/block*block
	}
	off = min(off, maxSize-length)
	data := make([]byte, length)
	for i := 0; i+8 <= length; i += 8 {
		binary.LittleEndian.PutUint64(data[i:], a.rng.Uint64())
	}
	after := make([]byte, max(len(before), off+length))
	copy(after, before)
	copy(after[off:], data)
	return change{what: fmt.Sprintf("write %s %d+%d", name, off, length), after: map[string][]byte{name: after}, mixed: true,
		do: func() error {
			f, err := a.file(name)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(data, int64(off))
			return err
		}}
}

func (a *actor) truncate(name string) change {
	after := make([]byte, a.rng.IntN(maxSize))
	copy(after, a.want[name])
	return change{what: fmt.Sprintf("truncate %s to %d", name, len(after)), after: map[string][]byte{name: after}, do: func() error {
		f, err := a.file(name)
		if err != nil {
			return err
		}
		return f.Truncate(int64(len(after)))
	}}
}

func (a *actor) rename(from, to string) change {
	if from == to {
		return change{what: "stat", do: func() error { _, err := os.Stat(filepath.Join(a.dir, from)); return err }}
	}
	return change{what: fmt.Sprintf("rename %s to %s", from, to), after: map[string][]byte{from: nil, to: a.want[from]}, do: func() error {
		a.shut(from)
		a.shut(to)
		return os.Rename(filepath.Join(a.dir, from), filepath.Join(a.dir, to))
	}}
}

func (a *actor) unlink(name string) change {
	return change{what: "unlink " + name, after: map[string][]byte{name: nil}, do: func() error {
		err := os.Remove(filepath.Join(a.dir, name))
		if err != nil {
			return err
		}
		// The descriptor still reads the file that has no name.
		if f := a.open[name]; f != nil {
			if info, err := f.Stat(); err != nil {
				return err
			} else if info.Size() != int64(len(a.want[name])) {
				return fmt.Errorf("unlinked file has %d bytes: %w", info.Size(), fs.ErrInvalid)
			}
		}
		return nil
	}}
}
