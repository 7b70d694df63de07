package main

import (
	"slices"
	"time"

	"cmkfs/meta"

	"golang.org/x/sys/unix"
)

// add gives an inode a name in a directory.
func (e *engine) add(d *node, text string, n *node) {
	entry := &name{text: text, ino: n.at.Ino, cookie: e.next}
	e.next++
	d.names[text] = entry
	d.order = append(d.order, entry)
	if n.names != nil {
		n.parent = d.at.Ino
		d.at.Nlink++
	}
	d.touch()
}

// drop takes a name away.
func (e *engine) drop(d *node, entry *name) {
	entry.removed = true
	delete(d.names, entry.text)
	if d.gone++; d.gone > len(d.order)/2 {
		d.order = slices.DeleteFunc(d.order, func(o *name) bool { return o.removed })
		d.gone = 0
	}
	if e.nodes[entry.ino].names != nil {
		d.at.Nlink--
	}
	d.touch()
}

func (n *node) touch() {
	n.at.Mtime = time.Now()
	n.at.Ctime = n.at.Mtime
}

// create makes an inode with a name.
func (e *engine) create(c meta.Caller, parent uint64, text string, mode uint32) (*node, error) {
	d, err := e.dir(parent)
	if err != nil {
		return nil, err
	}
	if d.names[text] != nil {
		return nil, meta.ErrExist
	}
	e.last++
	n := e.make(e.last, c, mode)
	e.add(d, text, n)
	return n, nil
}

func (e *engine) Mknod(c meta.Caller, parent uint64, text string, mode, rdev uint32) (meta.Attr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.create(c, parent, text, mode&^c.Umask)
	if err != nil {
		return meta.Attr{}, err
	}
	n.at.Rdev = rdev
	return n.at, nil
}

func (e *engine) Mkdir(c meta.Caller, parent uint64, text string, mode uint32) (meta.Attr, error) {
	return e.Mknod(c, parent, text, unix.S_IFDIR|mode, 0)
}

func (e *engine) Symlink(c meta.Caller, parent uint64, text, target string) (meta.Attr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.create(c, parent, text, unix.S_IFLNK|0o777)
	if err != nil {
		return meta.Attr{}, err
	}
	n.target, n.at.Size = target, uint64(len(target))
	return n.at, nil
}

func (e *engine) Tmpfile(c meta.Caller, _ uint64, mode uint32) (meta.Attr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	n := e.make(e.last, c, unix.S_IFREG|mode&^c.Umask)
	n.at.Nlink = 0
	return n.at, nil
}

func (e *engine) Link(_ meta.Caller, ino, parent uint64, text string) (meta.Attr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	if err != nil {
		return meta.Attr{}, err
	}
	d, err := e.dir(parent)
	if err != nil {
		return meta.Attr{}, err
	}
	if d.names[text] != nil {
		return meta.Attr{}, meta.ErrExist
	}
	n.at.Nlink++
	e.add(d, text, n)
	return n.at, nil
}

func (e *engine) Unlink(_ meta.Caller, parent uint64, text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, err := e.dir(parent)
	if err != nil {
		return err
	}
	entry := d.names[text]
	if entry == nil {
		return meta.ErrNotFound
	}
	n := e.nodes[entry.ino]
	if n.names != nil {
		return meta.ErrIsDir
	}
	e.drop(d, entry)
	n.at.Nlink--
	return nil
}

func (e *engine) Rmdir(_ meta.Caller, parent uint64, text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, err := e.dir(parent)
	if err != nil {
		return err
	}
	entry := d.names[text]
	if entry == nil {
		return meta.ErrNotFound
	}
	n := e.nodes[entry.ino]
	switch {
	case n.names == nil:
		return meta.ErrNotDir
	case len(n.names) > 0:
		return meta.ErrNotEmpty
	}
	e.drop(d, entry)
	n.at.Nlink = 0
	return nil
}

func (e *engine) Rename(_ meta.Caller, oldParent uint64, oldText string, newParent uint64, newText string, flags uint32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	from, err := e.dir(oldParent)
	if err != nil {
		return err
	}
	to, err := e.dir(newParent)
	if err != nil {
		return err
	}
	moved, replaced := from.names[oldText], to.names[newText]
	switch {
	case moved == nil:
		return meta.ErrNotFound
	case flags&^meta.RenameNoReplace != 0:
		return meta.ErrInvalid
	case replaced != nil && flags&meta.RenameNoReplace != 0:
		return meta.ErrExist
	case replaced != nil && replaced.ino == moved.ino:
		return nil
	}
	if replaced != nil {
		n := e.nodes[replaced.ino]
		if len(n.names) > 0 {
			return meta.ErrNotEmpty
		}
		e.drop(to, replaced)
		n.at.Nlink--
		if n.names != nil {
			n.at.Nlink = 0
		}
	}
	e.drop(from, moved)
	e.add(to, newText, e.nodes[moved.ino])
	return nil
}

func (e *engine) ReadDir(ino, cookie uint64, fn func(meta.DirEntry) bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, err := e.dir(ino)
	if err != nil {
		return err
	}
	for i, self := range []meta.DirEntry{{Name: ".", Ino: ino}, {Name: "..", Ino: d.parent}} {
		self.Mode, self.Cookie = unix.S_IFDIR, uint64(i+1)
		if self.Cookie > cookie && !fn(self) {
			return nil
		}
	}
	first, _ := slices.BinarySearchFunc(d.order, cookie+1, func(o *name, c uint64) int { return int(o.cookie) - int(c) })
	for _, o := range d.order[first:] {
		if !o.removed && !fn(meta.DirEntry{Name: o.text, Ino: o.ino, Mode: e.nodes[o.ino].at.Mode & unix.S_IFMT, Cookie: o.cookie}) {
			return nil
		}
	}
	return nil
}
