package meta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// volumeFiles are the files of a volume by name, zeros at their ends left out.
type volumeFiles map[string]fileBytes

type fileBytes struct {
	data []byte // never changed, but replaced
	size int64
}

func readFiles(dir string) (volumeFiles, error) {
	files := volumeFiles{}
	return files, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() || info.Name() == "lock" {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		files[name] = fileBytes{bytes.Clone(bytes.TrimRight(b, "\x00")), int64(len(b))}
		return err
	})
}

// write makes the files, and only them, in dir.
func (f volumeFiles) write(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "journal"), 0o700), os.MkdirAll(filepath.Join(dir, "segments"), 0o700))
	for name, b := range f {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, b.data[:min(int64(len(b.data)), b.size)], 0o600), os.Truncate(path, b.size))
	}
	return err
}

// edit changes bytes of a file, in a copy.
func (f volumeFiles) edit(name string, off, length int64, fn func(b []byte)) {
	old := f[name]
	b := make([]byte, max(int64(len(old.data)), off+length))
	copy(b, old.data)
	fn(b[off : off+length])
	f[name] = fileBytes{b, max(old.size, off+length)}
}

func (b fileBytes) page(n int64) []byte {
	page := make([]byte, 4096)
	if n*4096 < int64(len(b.data)) {
		copy(page, b.data[n*4096:])
	}
	return page
}

// victim is a volume to be damaged, and what is in it.
type victim struct {
	cfg   meta.Config
	files volumeFiles
	older []volumeFiles // as the files were before
	tree  map[string]*treeNode
}

type treeNode struct {
	ino     uint64
	attr    meta.Attr
	content string
	xattrs  string
}

func (d *victim) copy() volumeFiles { return maps.Clone(d.files) }

// newVictim makes a volume in three stages, closed at the end or left as a
// crash leaves it.
func newVictim(t *testing.T, id byte, closed bool) *victim {
	dir := shm(t)
	st := must[*store.Dir](t)(store.OpenDir(dir))
	defer st.Close()
	d := &victim{cfg: meta.Config{Store: st, Key: crypto.Key{id, 7}, VolumeID: [16]byte{id}, Now: anyClock()}, tree: map[string]*treeNode{}}
	err := meta.Create(context.Background(), d.cfg, meta.Params{JournalBytes: 512 << 10, AEKID: "first", SealedVEK: []byte("sealed"), Commitment: crypto.Commit(d.cfg.Key, d.cfg.VolumeID[:])})
	if err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, d.cfg)
	ok := must[meta.Attr](t)
	mode := uint32(unix.S_IFREG | 0o640)
	for stage := range 3 {
		dir := ok(v.Mkdir(meta.Caller{}, meta.RootIno, fmt.Sprint("d", stage), 0o755))
		for i := range 60 {
			a := ok(v.Mknod(meta.Caller{}, dir.Ino, fmt.Sprint("small", i), mode, 0))
			must[int](t)(v.Write(meta.Caller{}, a.Ino, content(stage*100+i, 37*i), 0))
		}
		for i, size := range []int{0, 1, 5000, 40_000, 150_000} {
			name := fmt.Sprintf("f%d-%d", stage, i)
			a := ok(v.Mknod(meta.Caller{}, meta.RootIno, name, mode, 0))
			must[int](t)(v.Write(meta.Caller{}, a.Ino, content(size+stage, size), int64(i*20_000)))
			if err := v.SetXattr(meta.Caller{}, a.Ino, "user.about", content(i, 100*i), 0); err != nil {
				t.Fatal(err)
			}
			if stage > 0 { // an older state of the same file
				old := ok(v.Lookup(meta.RootIno, fmt.Sprintf("f%d-%d", stage-1, i)))
				must[int](t)(v.Write(meta.Caller{}, old.Ino, content(stage, 3000), int64(size/2)))
				must[int64](t)(v.CopyRange(meta.Caller{}, old.Ino, 0, a.Ino, 4096, int64(old.Size)))
			}
		}
		ok(v.Symlink(meta.Caller{}, dir.Ino, "link", strings.Repeat("target", 20)))
		if stage > 0 {
			old := ok(v.Lookup(meta.RootIno, fmt.Sprint("d", stage-1)))
			if err := v.Unlink(meta.Caller{}, old.Ino, "small3"); err != nil {
				t.Fatal(err)
			}
		}
		if stage == 2 {
			d.walk(t, v, "", meta.RootIno)
		}
		switch {
		case stage < 2 || closed:
			err = v.Close(context.Background())
		default:
			if err = v.Sync(context.Background()); err == nil {
				v.Prove()
				position := v.Position()
				d.cfg.Newest = &position
				err = v.Abandon()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		d.older = append(d.older, must[volumeFiles](t)(readFiles(st.Path(""))))
		if stage == 0 {
			if err := meta.Reseal(st, "first", meta.KeyRecord{AEKID: "second", SealedVEK: []byte("anew")}); err != nil {
				t.Fatal(err)
			}
		}
		if stage < 2 {
			v = openVolume(t, d.cfg)
		}
	}
	if closed {
		v = openVolume(t, d.cfg)
		position := v.Position()
		d.cfg.Newest = &position
		if err := v.Abandon(); err != nil {
			t.Fatal(err)
		}
	}
	d.files, d.older = must[volumeFiles](t)(readFiles(st.Path(""))), d.older[:2]
	return d
}

// walk notes what is below a directory.
func (d *victim) walk(t *testing.T, v *meta.Volume, path string, ino uint64) {
	for name, child := range must[map[string]uint64](t)(readDir(v, ino)) {
		n := &treeNode{ino: child, attr: must[meta.Attr](t)(v.GetAttr(child)), xattrs: fmt.Sprint(must[[]string](t)(v.ListXattr(child)))}
		n.content = must[string](t)(readNode(v, child, n.attr))
		d.tree[path+name] = n
		if n.attr.Mode&unix.S_IFMT == unix.S_IFDIR {
			d.walk(t, v, path+name+"/", child)
		}
	}
}

// damage does one thing to the files and says what.
func (d *victim) damage(rnd *rand.Rand, files volumeFiles, other *victim) string {
	names := slices.Sorted(maps.Keys(files))
	kinds := []string{"superblock", "index.db", "index.db", "index.tags", "journal/", "segments/"}
	kind := kinds[rnd.IntN(len(kinds))]
	mine := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, kind) })
	name := mine[rnd.IntN(len(mine))]
	f := files[name]
	pages := max(1, int64(len(f.data)+4095)/4096)
	page := rnd.Int64N(pages)
	older := d.older[rnd.IntN(len(d.older))]
	switch rnd.IntN(16) {
	default: // a bit: in a header of a page, in a byte that is no zero, or anywhere
		off := page*4096 + rnd.Int64N(100)
		if r := rnd.IntN(3); r == 0 {
			off = page*4096 + rnd.Int64N(4096)
		} else if r == 1 {
			for off = rnd.Int64N(pages * 4096); off < int64(len(f.data))-1 && f.data[off] == 0; {
				off++
			}
		}
		bit := byte(1) << rnd.IntN(8)
		files.edit(name, off, 1, func(b []byte) { b[0] ^= bit })
		return fmt.Sprintf("bit %#x of byte %d of %s", bit, off, name)
	case 0:
		sectors := 1 + rnd.Int64N(8)
		off := page*4096 + 512*rnd.Int64N(8)
		files.edit(name, off, 512*sectors, func(b []byte) { clear(b) })
		return fmt.Sprintf("%d sectors of zeros at byte %d of %s", sectors, off, name)
	case 1:
		n := 1 + rnd.Int64N(5000)
		files.edit(name, page*4096, n, func(b []byte) {
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
		})
		return fmt.Sprintf("%d bytes of noise in page %d of %s", n, page, name)
	case 2:
		size := rnd.Int64N(f.size + 1)
		if rnd.IntN(2) == 0 {
			size = min(f.size, rnd.Int64N(pages*4096+1))
		}
		files[name] = fileBytes{f.data, size}
		return fmt.Sprintf("%s is cut to %d bytes", name, size)
	case 3:
		with := rnd.Int64N(pages)
		a, b := f.page(page), f.page(with)
		files.edit(name, page*4096, 4096, func(p []byte) { copy(p, b) })
		files.edit(name, with*4096, 4096, func(p []byte) { copy(p, a) })
		return fmt.Sprintf("pages %d and %d of %s are swapped", page, with, name)
	case 4:
		from := names[rnd.IntN(len(names))]
		n := rnd.Int64N(max(1, int64(len(files[from].data)/4096)))
		b := files[from].page(n)
		files.edit(name, page*4096, 4096, func(p []byte) { copy(p, b) })
		return fmt.Sprintf("page %d of %s is page %d of %s", page, name, n, from)
	case 5:
		b := other.files[name].page(page)
		files.edit(name, page*4096, 4096, func(p []byte) { copy(p, b) })
		return fmt.Sprintf("page %d of %s is another volume's", page, name)
	case 6:
		b := older[name].page(page)
		files.edit(name, page*4096, 4096, func(p []byte) { copy(p, b) })
		return fmt.Sprintf("page %d of %s is an older one", page, name)
	case 7:
		if b, there := other.files[name]; there {
			files[name] = b
			return name + " is another volume's"
		}
		delete(files, name)
		return name + " is missing"
	case 8:
		if b, there := older[name]; there {
			files[name] = b
			return name + " is an older one"
		}
		delete(files, name)
		return name + " is missing"
	case 9:
		delete(files, name)
		return name + " is missing"
	case 10: // some files older, some not
		var which []string
		for _, n := range names {
			if b, there := older[n]; there && rnd.IntN(2) == 0 {
				files[n] = b
				which = append(which, n)
			}
		}
		return fmt.Sprintf("%v are older", which)
	case 11:
		maps.DeleteFunc(files, func(string, fileBytes) bool { return true })
		maps.Copy(files, older)
		return "an older copy of the whole"
	case 12:
		stray := []string{"flush-failed", "index.tags.new", "index.db.new", "superblock.new", "segments/00000000000000ff", "journal/07.new", "journal/09"}[rnd.IntN(7)]
		files[stray] = f
		return fmt.Sprintf("%s is a copy of %s", stray, name)
	}
}
