package meta

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// dirent is one name in a directory. A tableDirent value holds all names of
// the directory with one hash: almost always one.
type dirent struct {
	ino  uint64
	mode uint32 // type bits
	name string
}

const direntVersion = 1

func marshalDirents(ents []dirent) []byte {
	if len(ents) == 0 {
		return nil
	}
	b := []byte{direntVersion}
	for _, e := range ents {
		b = binary.LittleEndian.AppendUint64(b, e.ino)
		b = binary.LittleEndian.AppendUint32(b, e.mode)
		b = append(append(b, byte(len(e.name))), e.name...)
	}
	return b
}

var errDirent = errors.New("malformed directory entry")

func unmarshalDirents(b []byte) ([]dirent, error) {
	if b == nil {
		return nil, nil
	}
	d := decoder{b: b}
	if d.u8() != direntVersion {
		return nil, errVersion
	}
	ents := make([]dirent, 0, 1)
	for len(d.b) > 0 && !d.bad {
		e := dirent{ino: d.u64(), mode: d.u32()}
		e.name = string(d.take(int(d.u8())))
		if e.name == "" || e.ino == 0 || strings.ContainsAny(e.name, "/\x00") {
			return nil, errDirent
		}
		ents = append(ents, e)
	}
	if d.bad || len(ents) == 0 {
		return nil, errDirent
	}
	return ents, nil
}

// checkName refuses names that cannot be in a directory.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return ErrInvalid
	case len(name) > MaxName:
		return ErrNameTooLong
	}
	return nil
}

// direntKey is where a name is.
func (v *Volume) direntKey(parent uint64, name string) key {
	return key{tableDirent, parent, v.keys.names.NameHash(parent, name)}
}

func decodeDirents(k key, val []byte) ([]dirent, error) {
	ents, err := unmarshalDirents(val)
	if err != nil {
		return nil, &CorruptError{Where: k.String(), Err: err}
	}
	return ents, nil
}

// entry looks a name up. ErrNotFound if there is none.
func (t *tx) entry(parent uint64, name string) (dirent, error) {
	k := t.v.direntKey(parent, name)
	val, err := t.get(k)
	if err != nil {
		return dirent{}, err
	}
	return findDirent(k, val, name)
}

func findDirent(k key, val []byte, name string) (dirent, error) {
	ents, err := decodeDirents(k, val)
	if err != nil {
		return dirent{}, err
	}
	for _, e := range ents {
		if e.name == name {
			return e, nil
		}
	}
	return dirent{}, ErrNotFound
}

// setEntry adds a name or points an existing one elsewhere; e.ino 0 removes it.
func (t *tx) setEntry(parent uint64, e dirent) error {
	k := t.v.direntKey(parent, e.name)
	val, err := t.get(k)
	if err != nil {
		return err
	}
	ents, err := decodeDirents(k, val)
	if err != nil {
		return err
	}
	keep := ents[:0]
	for _, old := range ents {
		if old.name != e.name {
			keep = append(keep, old)
		}
	}
	if e.ino != 0 {
		e.mode &= unix.S_IFMT
		keep = append(keep, e)
	}
	if len(keep) == 0 {
		t.del(k)
	} else {
		t.put(k, marshalDirents(keep))
	}
	return nil
}

// Cookies of "." and ".."; those of names are their hashes, which are larger.
const (
	cookieDot    = 1
	cookieDotDot = 2
)

// readDirChunk is how many entries ReadDir looks up under one lock.
const readDirChunk = 256

// ReadDir calls fn for the entries of a directory behind cookie (0 = from the
// begin), "." and ".." first, until fn returns false, which leaves that entry
// for the next call. Entries that stay are reported exactly once however many
// others come and go, because a name's cookie never changes. fn may call the
// volume's methods.
func (v *Volume) ReadDir(ino, cookie uint64, fn func(DirEntry) bool) error {
	for {
		chunk, err := v.readDirChunk(ino, cookie)
		if err != nil || len(chunk) == 0 {
			return err
		}
		for _, e := range chunk {
			if !fn(e) {
				return nil
			}
			cookie = e.Cookie
		}
	}
}

func (v *Volume) readDirChunk(ino, cookie uint64) (chunk []DirEntry, err error) {
	err = v.view(func() error {
		n, err := v.inodeOf(ino)
		if err != nil {
			return err
		}
		if !n.isDir() {
			return ErrNotDir
		}
		if cookie < cookieDot {
			chunk = append(chunk, DirEntry{".", ino, unix.S_IFDIR, cookieDot})
		}
		if cookie < cookieDotDot {
			chunk = append(chunk, DirEntry{"..", n.parent, unix.S_IFDIR, cookieDotDot})
		}
		var bad error
		err = v.scan(key{tableDirent, ino, cookie + 1}, func(k key, val []byte) bool {
			var ents []dirent
			if ents, bad = decodeDirents(k, val); bad != nil {
				return false
			}
			for i, e := range ents {
				// Of names with one hash only the last may advance the cookie: a
				// reader that stops in between sees the earlier ones again.
				c := k.b
				if i < len(ents)-1 {
					c--
				}
				chunk = append(chunk, DirEntry{e.name, e.ino, e.mode, c})
			}
			return len(chunk) < readDirChunk
		})
		return errors.Join(bad, err)
	})
	return chunk, err
}
