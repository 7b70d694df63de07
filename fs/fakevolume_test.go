package fs_test

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"cmkfs/fs"
	"cmkfs/meta"

	"golang.org/x/sys/unix"
)

// memVolume is a volume in memory, just enough to drive the loop, the gate and
// take-over. Each new one starts with the same tree: files "f0" to "f9" of
// staticSize bytes, which staticData describes.
type memVolume struct {
	fs.Volume // what is not defined here is not called

	mu        sync.Mutex
	nodes     map[uint64]*memNode
	last      uint64
	forgotten map[uint64]int

	blockReads bool // reads never end
	slowWrites bool // each takes a while
}

type memNode struct {
	at   meta.Attr
	data []byte
	kids map[string]uint64
}

const staticSize = 300_000

// staticData is the content of the static file with this inode number.
func staticData(ino uint64) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("file %6d ", ino)), staticSize/12+1)[:staticSize]
}

func newMemVolume() *memVolume {
	v := &memVolume{nodes: make(map[uint64]*memNode), last: meta.RootIno, forgotten: make(map[uint64]int)}
	v.nodes[meta.RootIno] = &memNode{at: meta.Attr{Ino: meta.RootIno, Mode: unix.S_IFDIR | 0755, Nlink: 2}, kids: map[string]uint64{}}
	for i := range 10 {
		at, _ := v.Mknod(meta.Caller{}, meta.RootIno, fmt.Sprintf("f%d", i), unix.S_IFREG|0644, 0)
		v.Write(meta.Caller{}, at.Ino, staticData(at.Ino), 0)
	}
	return v
}

func (v *memVolume) node(ino uint64) (*memNode, error) {
	if n := v.nodes[ino]; n != nil {
		return n, nil
	}
	return nil, meta.ErrStale
}

func (v *memVolume) Lookup(parent uint64, name string) (meta.Attr, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, err := v.node(parent)
	if err != nil {
		return meta.Attr{}, err
	}
	n := v.nodes[p.kids[name]]
	if n == nil {
		return meta.Attr{}, meta.ErrNotFound
	}
	return n.at, nil
}

func (v *memVolume) GetAttr(ino uint64) (meta.Attr, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.node(ino)
	if err != nil {
		return meta.Attr{}, err
	}
	return n.at, nil
}

func (v *memVolume) SetAttr(_ meta.Caller, ino uint64, s meta.SetAttr) (meta.Attr, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.node(ino)
	if err != nil {
		return meta.Attr{}, err
	}
	if s.Mode != nil {
		n.at.Mode = n.at.Mode&unix.S_IFMT | *s.Mode
	}
	if s.Size != nil {
		n.data = append(n.data, make([]byte, max(0, int(*s.Size)-len(n.data)))...)[:*s.Size]
		n.at.Size = *s.Size
	}
	return n.at, nil
}

func (v *memVolume) Mknod(_ meta.Caller, parent uint64, name string, mode, _ uint32) (meta.Attr, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, err := v.node(parent)
	if err != nil {
		return meta.Attr{}, err
	}
	if p.kids[name] != 0 {
		return meta.Attr{}, meta.ErrExist
	}
	v.last++
	n := &memNode{at: meta.Attr{Ino: v.last, Mode: mode, Nlink: 1, Mtime: time.Now()}, kids: map[string]uint64{}}
	v.nodes[v.last], p.kids[name] = n, v.last
	return n.at, nil
}

func (v *memVolume) Unlink(_ meta.Caller, parent uint64, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, err := v.node(parent)
	if err != nil {
		return err
	}
	if p.kids[name] == 0 {
		return meta.ErrNotFound
	}
	v.nodes[p.kids[name]].at.Nlink--
	delete(p.kids, name)
	return nil
}

func (v *memVolume) Read(ino uint64, dst []byte, off int64) (int, error) {
	if v.blockReads {
		select {}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.node(ino)
	if err != nil || off >= int64(len(n.data)) {
		return 0, err
	}
	return copy(dst, n.data[off:]), nil
}

func (v *memVolume) Write(_ meta.Caller, ino uint64, data []byte, off int64) (int, error) {
	if v.slowWrites {
		time.Sleep(20 * time.Millisecond)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.node(ino)
	if err != nil {
		return 0, err
	}
	if end := int(off) + len(data); end > len(n.data) {
		n.data = append(n.data, make([]byte, end-len(n.data))...)
	}
	n.at.Size = uint64(len(n.data))
	return copy(n.data[off:], data), nil
}

func (v *memVolume) Peek(ino uint64, dst []byte, off int64) (int, error) {
	return v.Read(ino, dst, off)
}

func (v *memVolume) Accessed(uint64) error { return nil }

func (v *memVolume) SetAccessTimes(meta.AccessTimes) {}

func (v *memVolume) ReadDir(ino, cookie uint64, fn func(meta.DirEntry) bool) error {
	v.mu.Lock()
	n, err := v.node(ino)
	var es []meta.DirEntry
	if err == nil {
		es = []meta.DirEntry{{Name: ".", Ino: ino, Mode: unix.S_IFDIR, Cookie: 1}, {Name: "..", Ino: ino, Mode: unix.S_IFDIR, Cookie: 2}}
		for name, kid := range n.kids {
			es = append(es, meta.DirEntry{Name: name, Ino: kid, Mode: v.nodes[kid].at.Mode & unix.S_IFMT, Cookie: kid + 10})
		}
	}
	v.mu.Unlock()
	sort.Slice(es, func(i, j int) bool { return es[i].Cookie < es[j].Cookie })
	for _, e := range es {
		if e.Cookie > cookie && !fn(e) {
			break
		}
	}
	return err
}

func (v *memVolume) GetXattr(uint64, string) ([]byte, error) { return nil, meta.ErrNoAttr }
func (v *memVolume) ListXattr(uint64) ([]string, error)      { return nil, nil }
func (v *memVolume) Statfs() (meta.Usage, error)             { return meta.Usage{FreeBytes: 1 << 30}, nil }
func (v *memVolume) Orphans() []uint64                       { return nil }

func (v *memVolume) Sync(context.Context) error             { return nil }
func (v *memVolume) SyncFile(context.Context, uint64) error { return nil }

func (v *memVolume) TryForget(ino uint64) (bool, error) { return true, v.Forget(ino) }

func (v *memVolume) Forget(ino uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forgotten[ino]++
	if n := v.nodes[ino]; n != nil && n.at.Nlink == 0 {
		delete(v.nodes, ino)
	}
	return nil
}
