package meta_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// generator makes operations that mostly succeed on a model.
type generator struct {
	rnd   *rand.Rand
	seeds uint64
}

var names = []string{"a", "b", "c", "d", "e", "ä", strings.Repeat("n", meta.MaxName)}
var xattrNames = []string{"user.a", "user.b", "trusted.c"}

// sizes and offsets around everything that matters: bytes, pages, AEAD blocks,
// the threshold for segments, regions.
var lengths = []int64{1, 100, 2048, 2049, 4095, 4096, 4097, 8192, 20000, 32 << 10, 36 << 10, 40000, 65536, 132 << 10}
var offsets = []int64{0, 0, 0, 1, 100, 4000, 4096, 8192, 12288, 30000, 65536, 126976, 128 << 10, 200000}

func pick[T any](rnd *rand.Rand, from []T) T { return from[rnd.IntN(len(from))] }

// choose returns an inode that ok accepts, 0 if there is none.
func (g *generator) choose(m *model, ok func(*node) bool) uint64 {
	var out []uint64
	for _, ino := range slices.Sorted(maps.Keys(m.nodes)) {
		if ok(m.nodes[ino]) {
			out = append(out, ino)
		}
	}
	if len(out) == 0 {
		return 0
	}
	return pick(g.rnd, out)
}

func (g *generator) dir(m *model) uint64 {
	return g.choose(m, func(n *node) bool { return n.isDir() && n.nlink > 0 })
}

func (g *generator) file(m *model) uint64 { return g.choose(m, (*node).isRegular) }

// entry returns a directory and mostly a name that is in it.
func (g *generator) entry(m *model) (uint64, string) {
	dir := g.choose(m, func(n *node) bool { return n.isDir() && len(n.entries) > 0 })
	if dir == 0 || g.rnd.IntN(20) == 0 {
		return g.dir(m), pick(g.rnd, names)
	}
	return dir, pick(g.rnd, slices.Sorted(maps.Keys(m.nodes[dir].entries)))
}

// kinds is how often each operation comes.
var kinds = map[string]int{
	"mknod": 10, "mkdir": 4, "symlink": 2, "tmpfile": 2, "link": 4, "unlink": 6, "rmdir": 2, "rename": 8,
	"write": 30, "truncate": 8, "chmod": 2, "chown": 1, "utimes": 1, "fallocate": 8, "copy": 8,
	"setxattr": 5, "removexattr": 2, "forget": 5, "sync": 6,
}

var kindList = func() (out []string) {
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		out = append(out, slices.Repeat([]string{k}, kinds[k])...)
	}
	return out
}()

// next makes an operation for the model.
func (g *generator) next(m *model) op {
	for {
		if o, ok := g.try(m, pick(g.rnd, kindList)); ok {
			return o
		}
	}
}

func (g *generator) try(m *model, kind string) (op, bool) {
	g.seeds++
	o := op{kind: kind, seed: g.seeds, callerMask: pick(g.rnd, []uint32{0, 0o22, 0o77})}
	if g.rnd.IntN(4) == 0 {
		o.callerUID = 1000
	}
	switch kind {
	case "mknod", "mkdir", "symlink", "tmpfile":
		o.ino, o.name = g.dir(m), pick(g.rnd, names)
		o.mode = pick(g.rnd, []uint32{0o644, 0o600, 0o755, 0o2770})
		switch kind {
		case "mknod":
			o.mode |= pick(g.rnd, []uint32{unix.S_IFREG, unix.S_IFREG, unix.S_IFREG, unix.S_IFREG, unix.S_IFIFO, unix.S_IFCHR})
			o.off = 259
		case "symlink":
			o.value = pick(g.rnd, []string{"a", "../b", strings.Repeat("x", 3000)})
		case "tmpfile":
			o.name = ""
		}
		return o, len(m.nodes) < 25
	case "link":
		o.ino = g.choose(m, func(n *node) bool { return !n.isDir() && (n.nlink > 0 || n.linkable) })
		o.ino2, o.name2 = g.dir(m), pick(g.rnd, names)
		return o, o.ino != 0
	case "unlink", "rmdir":
		o.ino, o.name = g.entry(m)
		return o, true
	case "rename":
		o.ino, o.name = g.entry(m)
		o.ino2, o.name2 = g.entry(m)
		if g.rnd.IntN(2) == 0 {
			o.ino2, o.name2 = g.dir(m), pick(g.rnd, names)
		}
		o.mode = pick(g.rnd, []uint32{0, 0, 0, meta.RenameNoReplace, meta.RenameExchange})
		return o, true
	case "chmod", "chown", "utimes", "setxattr", "removexattr":
		o.ino = g.choose(m, func(n *node) bool { return n.mode&unix.S_IFMT != unix.S_IFLNK })
		o.mode = pick(g.rnd, []uint32{0o600, 0o4755, 0o2755, 0o1777})
		o.uid, o.gid, o.off = g.rnd.Uint32N(3), g.rnd.Uint32N(3), g.rnd.Int64N(1<<31)
		if strings.HasSuffix(kind, "xattr") {
			o.mode = pick(g.rnd, []uint32{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE})
			o.name = pick(g.rnd, xattrNames)
			o.value = string(pattern(g.seeds, pick(g.rnd, []int{0, 1, 30, 5000})))
		}
		if kind == "setxattr" && g.rnd.IntN(3) == 0 {
			o.name, o.mode, o.value = meta.XattrACLAccess, 0, string(randomACL(g.rnd, true))
			if m.nodes[o.ino].isDir() && g.rnd.IntN(2) == 0 {
				o.name = meta.XattrACLDefault
			}
		}
		return o, true
	case "forget":
		o.ino = g.choose(m, func(n *node) bool { return n.nlink == 0 })
		return o, o.ino != 0
	case "sync":
		o.ino = g.file(m)
		return o, true
	}
	o.ino = g.file(m)
	if o.ino == 0 {
		return o, false
	}
	size := int64(m.nodes[o.ino].size)
	o.off, o.length = pick(g.rnd, offsets), pick(g.rnd, lengths)
	switch g.rnd.IntN(4) {
	case 0:
		o.off = size
	case 1:
		o.off = g.rnd.Int64N(size + 1)
	}
	o.off = min(o.off, 300<<10)
	switch kind {
	case "truncate":
		if g.rnd.IntN(20) == 0 {
			o.off = 1 << 40
		}
	case "fallocate":
		o.mode = pick(g.rnd, []uint32{
			0, meta.FallocKeepSize, meta.FallocPunchHole | meta.FallocKeepSize, meta.FallocPunchHole | meta.FallocKeepSize,
			meta.FallocZeroRange, meta.FallocZeroRange | meta.FallocKeepSize,
		})
	case "copy":
		o.ino2 = g.file(m)
		o.off2 = pick(g.rnd, offsets)
		if g.rnd.IntN(3) > 0 { // what can be shared: aligned pages
			o.off, o.off2, o.length = o.off/page*page, o.off2/page*page, max(o.length/page, 1)*page
		}
	case "write":
		if g.rnd.IntN(30) == 0 {
			o.off = 1<<33 + 5
		}
	}
	return o, true
}
