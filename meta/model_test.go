package meta_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// model is what a volume should be: plain maps, no format, no durability. A
// model is never changed; operations make new ones that share the rest.
type model struct {
	root    uint64 // of the tree the model describes
	nodes   map[uint64]*node
	nextIno uint64
}

// node is an inode. Nodes inside a model are never changed.
type node struct {
	mode, nlink, uid, gid, rdev uint32
	parent                      uint64            // directories
	entries                     map[string]uint64 // directories
	target                      string
	xattrs                      map[string]string
	size                        uint64
	pages                       map[uint64][]byte // of page bytes each; missing = zeros
	linkable                    bool              // made without a name: may still get one
	atime, mtime, ctime         moment
}

const page = 4096

// newModel is a new volume.
func newModel() *model { return newTree(meta.RootIno) }

// newTree is an empty directory, made with the same owner and mode.
func newTree(ino uint64) *model {
	root := &node{mode: unix.S_IFDIR | 0o755, nlink: 2, parent: meta.RootIno, entries: map[string]uint64{}}
	return &model{root: ino, nodes: map[uint64]*node{ino: root}, nextIno: ino + 1}
}

// draft is a copy of the model to change, in which node returns nodes that may
// be changed too.
type draft struct {
	*model
	mine map[uint64]bool
	now  moment
}

func (m *model) draft(now moment) *draft {
	return &draft{&model{m.root, maps.Clone(m.nodes), m.nextIno}, map[uint64]bool{}, now}
}

func (e *draft) node(ino uint64) *node {
	n := e.nodes[ino]
	if n == nil || e.mine[ino] {
		return n
	}
	c := *n
	c.entries, c.xattrs, c.pages = maps.Clone(n.entries), maps.Clone(n.xattrs), maps.Clone(n.pages)
	e.nodes[ino], e.mine[ino] = &c, true
	return &c
}

func (e *draft) add(mode uint32) (uint64, *node) {
	ino := e.nextIno
	e.nextIno++
	n := &node{mode: mode, nlink: 1, xattrs: map[string]string{}, pages: map[uint64][]byte{}, atime: e.now, mtime: e.now, ctime: e.now}
	if n.isDir() {
		n.nlink, n.entries = 2, map[string]uint64{}
	}
	e.nodes[ino], e.mine[ino] = n, true
	return ino, n
}

func (n *node) isDir() bool     { return n.mode&unix.S_IFMT == unix.S_IFDIR }
func (n *node) isRegular() bool { return n.mode&unix.S_IFMT == unix.S_IFREG }

// orphans lists the inodes without a name, in order.
func (m *model) orphans() []uint64 {
	var out []uint64
	for ino, n := range m.nodes {
		if n.nlink == 0 {
			out = append(out, ino)
		}
	}
	slices.Sort(out)
	return out
}

// write changes bytes of a file; a nil p of length n writes zeros.
func (n *node) write(p []byte, off uint64) {
	for len(p) > 0 {
		at := off % page
		old := n.pages[off/page]
		b := make([]byte, page)
		copy(b, old)
		c := copy(b[at:], p)
		if bytes.Count(b, []byte{0}) == page {
			delete(n.pages, off/page)
		} else {
			n.pages[off/page] = b
		}
		p, off = p[c:], off+uint64(c)
	}
}

// zero makes [off, end) read as zeros, whatever the size.
func (n *node) zero(off, end uint64) {
	for p := range maps.Clone(n.pages) {
		from, to := max(off, p*page), min(end, (p+1)*page)
		if from < to {
			n.write(make([]byte, to-from), from)
		}
	}
}

func (n *node) read(off, end uint64) []byte {
	out := make([]byte, 0, end-off)
	for off < end {
		b := n.pages[off/page]
		if b == nil {
			b = make([]byte, page)
		}
		to := min(page, off%page+end-off)
		out = append(out, b[off%page:to]...)
		off += to - off%page
	}
	return out
}

// outcome is what an operation answers.
type outcome struct {
	value uint64 // inode number or count
	err   error
}

func (o outcome) String() string { return fmt.Sprintf("(%d, %v)", o.value, o.err) }

// dump describes a whole volume as text: equal texts, equal volumes.
func (m *model) dump() string {
	var b strings.Builder
	seen := map[uint64]bool{}
	var walk func(path string, ino uint64)
	walk = func(path string, ino uint64) {
		n := m.nodes[ino]
		fmt.Fprintf(&b, "%s: %d", path, ino)
		if seen[ino] {
			b.WriteString(" again\n")
			return
		}
		seen[ino] = true
		size := n.size
		if n.isDir() {
			size = page
		}
		fmt.Fprintf(&b, " %o nlink %d uid %d gid %d rdev %d size %d", n.mode, n.nlink, n.uid, n.gid, n.rdev, size)
		fmt.Fprintf(&b, " times %d %d %d", n.atime, n.mtime, n.ctime)
		if n.target != "" {
			fmt.Fprintf(&b, " -> %q", n.target)
		}
		for _, name := range slices.Sorted(maps.Keys(n.xattrs)) {
			fmt.Fprintf(&b, " %s=%q", name, n.xattrs[name])
		}
		if n.isRegular() {
			h := newContentHash()
			for _, p := range slices.Sorted(maps.Keys(n.pages)) {
				h.page(p, n.pages[p])
			}
			fmt.Fprintf(&b, " %s", h)
		}
		b.WriteByte('\n')
		if n.isDir() {
			for _, name := range slices.Sorted(maps.Keys(n.entries)) {
				walk(path+"/"+shorten(name), n.entries[name])
			}
		}
	}
	walk("", m.root)
	for _, ino := range m.orphans() {
		walk("orphan", ino)
	}
	return b.String()
}

// dumpVolume describes an open volume in the same way.
func dumpVolume(v *meta.Volume) (string, error) {
	return dumpTree(v, meta.RootIno, func(uint64) bool { return true })
}

// dumpTree describes a directory, and those orphans that are mine.
func dumpTree(v *meta.Volume, root uint64, mine func(ino uint64) bool) (string, error) {
	var b strings.Builder
	seen := map[uint64]bool{}
	var walk func(path string, ino uint64) error
	walk = func(path string, ino uint64) error {
		fmt.Fprintf(&b, "%s: %d", path, ino)
		if seen[ino] {
			b.WriteString(" again\n")
			return nil
		}
		seen[ino] = true
		a, err := v.GetAttr(ino)
		if err != nil {
			return fmt.Errorf("%s: getattr %d: %w", path, ino, err)
		}
		fmt.Fprintf(&b, " %o nlink %d uid %d gid %d rdev %d size %d", a.Mode, a.Nlink, a.UID, a.GID, a.Rdev, a.Size)
		fmt.Fprintf(&b, " times %d %d %d", momentOf(a.Atime), momentOf(a.Mtime), momentOf(a.Ctime))
		if a.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := v.Readlink(ino)
			if err != nil {
				return fmt.Errorf("%s: readlink: %w", path, err)
			}
			fmt.Fprintf(&b, " -> %q", target)
		}
		names, err := v.ListXattr(ino)
		if err != nil {
			return fmt.Errorf("%s: listxattr: %w", path, err)
		}
		slices.Sort(names)
		for _, name := range names {
			val, err := v.GetXattr(ino, name)
			if err != nil {
				return fmt.Errorf("%s: getxattr: %w", path, err)
			}
			fmt.Fprintf(&b, " %s=%q", name, val)
		}
		if a.Mode&unix.S_IFMT == unix.S_IFREG {
			sum, err := hashFile(v, ino, a.Size)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			fmt.Fprintf(&b, " %s", sum)
		}
		b.WriteByte('\n')
		if a.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
		entries, err := readDir(v, ino)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			if err := walk(path+"/"+shorten(name), entries[name]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk("", root); err != nil {
		return "", err
	}
	orphans := slices.DeleteFunc(v.Orphans(), func(ino uint64) bool { return !mine(ino) })
	slices.Sort(orphans)
	for _, ino := range orphans {
		if err := walk("orphan", ino); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// readDir lists a directory and checks the cookies, and that Lookup agrees.
func readDir(v *meta.Volume, ino uint64) (map[string]uint64, error) {
	out := map[string]uint64{}
	last := uint64(0)
	var bad error
	err := v.ReadDir(ino, 0, func(e meta.DirEntry) bool {
		if e.Cookie <= last {
			bad = fmt.Errorf("readdir: cookie %d after %d", e.Cookie, last)
		}
		last = e.Cookie
		if e.Name != "." && e.Name != ".." {
			if _, dup := out[e.Name]; dup {
				bad = fmt.Errorf("readdir: %q twice", e.Name)
			}
			out[e.Name] = e.Ino
		}
		return true
	})
	if err != nil || bad != nil {
		return nil, fmt.Errorf("readdir: %w", cmpErr(err, bad))
	}
	for name, want := range out {
		if a, err := v.Lookup(ino, name); err != nil || a.Ino != want {
			return nil, fmt.Errorf("lookup %q: %d, %w; readdir has %d", shorten(name), a.Ino, err, want)
		}
	}
	return out, nil
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func shorten(name string) string {
	if len(name) > 20 {
		return fmt.Sprintf("%s…%d", name[:8], len(name))
	}
	return name
}

// contentHash is over the pages that are not all zero.
type contentHash struct {
	sum   [32]byte
	pages int
}

func newContentHash() *contentHash { return &contentHash{} }

func (h *contentHash) page(p uint64, b []byte) {
	h.pages++
	h.sum = sha256.Sum256(fmt.Appendf(nil, "%x %d %x", h.sum, p, sha256.Sum256(b)))
}

func (h *contentHash) String() string { return fmt.Sprintf("%d pages %x", h.pages, h.sum[:6]) }

// wholeFile is up to which size a file is read from begin to end; of larger
// ones only what Seek calls data.
const wholeFile = 512 << 10

func hashFile(v *meta.Volume, ino, size uint64) (*contentHash, error) {
	h := newContentHash()
	zeros := make([]byte, page)
	read := func(from, to uint64) error {
		buf := make([]byte, (to-from+page-1)/page*page)
		n, err := v.Read(ino, buf, int64(from))
		if err != nil || uint64(n) != min(to, size)-from {
			return fmt.Errorf("read %d+%d of %d: %d, %w", from, len(buf), size, n, err)
		}
		for i := 0; i < len(buf); i += page {
			if b := buf[i : i+page]; !bytes.Equal(b, zeros) {
				h.page((from+uint64(i))/page, b)
			}
		}
		return nil
	}
	if size <= wholeFile {
		return h, read(0, size)
	}
	for off := int64(0); ; {
		from, err := v.Seek(ino, off, unix.SEEK_DATA)
		if err != nil {
			if isErr(err, meta.ErrRange) {
				return h, nil
			}
			return h, err
		}
		to, err := v.Seek(ino, from, unix.SEEK_HOLE)
		if err != nil {
			return h, err
		}
		from = from / page * page
		if err := read(uint64(from), uint64(to)); err != nil {
			return h, err
		}
		if off = (to + page - 1) / page * page; uint64(off) >= size {
			return h, nil
		}
	}
}

// pattern returns n bytes that no other seed gives, and for some seeds zeros.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	if seed%7 == 0 {
		return b
	}
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	rand.NewChaCha8(key).Read(b)
	return b
}
