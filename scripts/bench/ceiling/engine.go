package main

import (
	"context"
	"sync"
	"time"

	"cmkfs/meta"

	"golang.org/x/sys/unix"
)

// engine is a volume that does nothing but remember names and attributes.
type engine struct {
	keep bool

	mu    sync.Mutex // guards all that follows, held for memory accesses only
	nodes map[uint64]*node
	last  uint64 // inode number given out last
	next  uint64 // cookie of the next directory entry
}

// node is an inode.
type node struct {
	at     meta.Attr
	target string                    // of a symbolic link
	pages  map[int64]*[pageSize]byte // of a file, if its content is kept
	names  map[string]*name          // of a directory
	order  []*name                   // the same by cookie, removed ones too
	gone   int                       // removed ones in order
	parent uint64                    // of a directory
}

// name is a directory entry.
type name struct {
	text    string
	ino     uint64
	cookie  uint64
	removed bool
}

const pageSize = 4096

func newEngine(keep bool) *engine {
	e := &engine{keep: keep, nodes: map[uint64]*node{}, last: meta.RootIno, next: 3}
	root := e.make(meta.RootIno, meta.Caller{}, unix.S_IFDIR|0o755)
	root.parent = meta.RootIno
	return e
}

// make makes an inode that has no name yet.
func (e *engine) make(ino uint64, c meta.Caller, mode uint32) *node {
	now := time.Now()
	n := &node{at: meta.Attr{
		Ino: ino, Mode: mode, Nlink: 1, UID: c.UID, GID: c.GID, Atime: now, Mtime: now, Ctime: now, Btime: now,
	}}
	if mode&unix.S_IFMT == unix.S_IFDIR {
		n.at.Nlink = 2
		n.names = map[string]*name{}
	}
	e.nodes[ino] = n
	return n
}

func (e *engine) node(ino uint64) (*node, error) {
	if n := e.nodes[ino]; n != nil {
		return n, nil
	}
	return nil, meta.ErrStale
}

func (e *engine) dir(ino uint64) (*node, error) {
	n, err := e.node(ino)
	if err == nil && n.names == nil {
		err = meta.ErrNotDir
	}
	return n, err
}

func (e *engine) Lookup(parent uint64, name string) (meta.Attr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, err := e.dir(parent)
	if err != nil {
		return meta.Attr{}, err
	}
	switch name {
	case ".":
		return d.at, nil
	case "..":
		return e.nodes[d.parent].at, nil
	}
	found := d.names[name]
	if found == nil {
		return meta.Attr{}, meta.ErrNotFound
	}
	return e.nodes[found.ino].at, nil
}

func (e *engine) GetAttr(ino uint64) (meta.Attr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	if err != nil {
		return meta.Attr{}, err
	}
	return n.at, nil
}

func (e *engine) SetAttr(_ meta.Caller, ino uint64, s meta.SetAttr) (meta.Attr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	if err != nil {
		return meta.Attr{}, err
	}
	if s.Mode != nil {
		n.at.Mode = n.at.Mode&unix.S_IFMT | *s.Mode
	}
	if s.UID != nil {
		n.at.UID = *s.UID
	}
	if s.GID != nil {
		n.at.GID = *s.GID
	}
	if s.Size != nil {
		n.resize(*s.Size)
	}
	if s.Atime != nil {
		n.at.Atime = *s.Atime
	}
	if s.Mtime != nil {
		n.at.Mtime = *s.Mtime
	}
	n.at.Ctime = time.Now()
	return n.at, nil
}

func (e *engine) Readlink(ino uint64) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	if err != nil {
		return "", err
	}
	return n.target, nil
}

func (e *engine) GetXattr(uint64, string) ([]byte, error) { return nil, meta.ErrNoAttr }
func (e *engine) ListXattr(uint64) ([]string, error)      { return nil, nil }
func (e *engine) Orphans() []uint64                       { return nil }
func (e *engine) SyncFile(context.Context, uint64) error  { return nil }
func (e *engine) Sync(context.Context) error              { return nil }

func (e *engine) Accessed(uint64) error           { return nil }
func (e *engine) SetAccessTimes(meta.AccessTimes) {}

func (e *engine) SetXattr(meta.Caller, uint64, string, []byte, uint32) error {
	return meta.ErrUnsupported
}

func (e *engine) RemoveXattr(meta.Caller, uint64, string) error { return meta.ErrNoAttr }

func (e *engine) Statfs() (meta.Usage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return meta.Usage{FreeBytes: 1 << 40, Files: uint64(len(e.nodes))}, nil
}

func (e *engine) TryForget(ino uint64) (bool, error) { return true, e.Forget(ino) }

func (e *engine) Forget(ino uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := e.nodes[ino]; n != nil && n.at.Nlink == 0 {
		delete(e.nodes, ino)
	}
	return nil
}
