package meta_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// op is one operation on a volume and on its model. Fields mean what the
// operation's arguments do.
type op struct {
	kind       string
	ino        uint64 // also the parent of a new name
	name       string
	ino2       uint64
	name2      string
	mode       uint32 // also flags
	off        int64
	off2       int64
	length     int64
	seed       uint64
	uid, gid   uint32
	value      string
	callerUID  uint32
	callerMask uint32
	when       int // the operation's number on an opClock; 0 = another clock
}

func (o op) String() string {
	s := fmt.Sprintf("%s %d", o.kind, o.ino)
	if o.name != "" {
		s += "/" + shorten(o.name)
	}
	if o.ino2 != 0 {
		s += fmt.Sprintf(" %d/%s", o.ino2, shorten(o.name2))
	}
	return s + fmt.Sprintf(" mode %o off %d off2 %d len %d seed %d", o.mode, o.off, o.off2, o.length, o.seed)
}

// newInode reports that the operation makes an inode.
func (o op) newInode() bool {
	switch o.kind {
	case "mknod", "mkdir", "symlink", "tmpfile":
		return true
	}
	return false
}

// run carries the operation out on a volume.
func (o op) run(v *meta.Volume, c meta.Caller) outcome {
	c.UID, c.GID, c.Umask = o.callerUID, o.callerUID, o.callerMask
	attr := func(a meta.Attr, err error) outcome { return outcome{a.Ino, err} }
	done := func(err error) outcome { return outcome{0, err} }
	switch o.kind {
	case "mknod":
		return attr(v.Mknod(c, o.ino, o.name, o.mode, uint32(o.off)))
	case "mkdir":
		return attr(v.Mkdir(c, o.ino, o.name, o.mode))
	case "symlink":
		return attr(v.Symlink(c, o.ino, o.name, o.value))
	case "tmpfile":
		return attr(v.Tmpfile(c, o.ino, o.mode))
	case "link":
		return attr(v.Link(c, o.ino, o.ino2, o.name2))
	case "unlink":
		return done(v.Unlink(c, o.ino, o.name))
	case "rmdir":
		return done(v.Rmdir(c, o.ino, o.name))
	case "rename":
		return done(v.Rename(c, o.ino, o.name, o.ino2, o.name2, o.mode))
	case "write":
		n, err := v.Write(c, o.ino, pattern(o.seed, int(o.length)), o.off)
		return outcome{uint64(n), err}
	case "truncate":
		size := uint64(o.off)
		return attr(v.SetAttr(c, o.ino, meta.SetAttr{Size: &size}))
	case "chmod":
		return attr(v.SetAttr(c, o.ino, meta.SetAttr{Mode: &o.mode}))
	case "chown":
		return attr(v.SetAttr(c, o.ino, meta.SetAttr{UID: &o.uid, GID: &o.gid}))
	case "utimes":
		at := time.Unix(o.off, 0)
		return attr(v.SetAttr(c, o.ino, meta.SetAttr{Mtime: &at, Atime: &at}))
	case "fallocate":
		return done(v.Fallocate(c, o.ino, o.mode, o.off, o.length))
	case "copy":
		n, err := v.CopyRange(c, o.ino, o.off, o.ino2, o.off2, o.length)
		return outcome{uint64(n), err}
	case "setxattr":
		return done(v.SetXattr(c, o.ino, o.name, []byte(o.value), o.mode))
	case "removexattr":
		return done(v.RemoveXattr(c, o.ino, o.name))
	case "forget":
		return done(v.Forget(o.ino))
	case "sync":
		return done(v.SyncFile(context.Background(), o.ino))
	}
	panic("unknown operation " + o.kind)
}

// apply carries the operation out on the model.
func (o op) apply(m *model) (*model, outcome) {
	e := m.draft(at(o.when))
	value, err := o.change(e)
	if err != nil {
		return m, outcome{0, err}
	}
	return e.model, outcome{value, nil}
}

func (o op) change(e *draft) (uint64, error) {
	switch o.kind {
	case "mknod", "mkdir", "symlink", "tmpfile":
		return o.create(e)
	case "link":
		return o.link(e)
	case "unlink", "rmdir":
		return 0, o.remove(e)
	case "rename":
		return 0, o.rename(e)
	case "forget":
		if n := e.nodes[o.ino]; n != nil && n.nlink == 0 {
			delete(e.nodes, o.ino)
		}
		return 0, nil
	case "sync":
		return 0, nil
	}
	n := e.node(o.ino)
	switch o.kind {
	case "chmod":
		n.chmod(o.mode)
		n.ctime = e.now
		return o.ino, nil
	case "chown":
		n.uid, n.gid, n.ctime = o.uid, o.gid, e.now
		n.clearPriv()
		return o.ino, nil
	case "utimes":
		set := momentOf(time.Unix(o.off, 0))
		n.atime, n.mtime, n.ctime = set, set, e.now
		return o.ino, nil
	case "setxattr":
		if isACL(o.name) {
			n.ctime = e.now
			return 0, n.setACL(o.name, o.value)
		}
		_, has := n.xattrs[o.name]
		if o.mode&unix.XATTR_CREATE != 0 && has {
			return 0, meta.ErrExist
		}
		if o.mode&unix.XATTR_REPLACE != 0 && !has {
			return 0, meta.ErrNoAttr
		}
		if n.xattrs == nil {
			n.xattrs = map[string]string{}
		}
		n.xattrs[o.name], n.ctime = o.value, e.now
		return 0, nil
	case "removexattr":
		if _, has := n.xattrs[o.name]; !has {
			return 0, meta.ErrNoAttr
		}
		delete(n.xattrs, o.name)
		n.ctime = e.now
		return 0, nil
	}
	return o.data(e, n)
}

// clearPriv is what changing a file or its owner does to its set-id bits.
func (n *node) clearPriv() {
	if !n.isDir() {
		n.mode &^= unix.S_ISUID
		if n.mode&unix.S_IXGRP != 0 {
			n.mode &^= unix.S_ISGID
		}
	}
}

// touch is what changing a file or directory does to its times.
func (n *node) touch(e *draft) { n.mtime, n.ctime = e.now, e.now }

// data is the part of change that concerns a file's content.
func (o op) data(e *draft, n *node) (uint64, error) {
	switch o.kind {
	case "write":
		n.write(pattern(o.seed, int(o.length)), uint64(o.off))
		n.size = max(n.size, uint64(o.off+o.length))
		n.touch(e)
		return uint64(o.length), nil
	case "truncate":
		n.zero(uint64(o.off), 1<<63)
		n.size = uint64(o.off)
		n.touch(e)
		return o.ino, nil
	case "fallocate":
		end := uint64(o.off + o.length)
		if o.mode&(meta.FallocPunchHole|meta.FallocZeroRange) != 0 {
			n.zero(uint64(o.off), end)
			n.touch(e)
		}
		if o.mode&meta.FallocKeepSize == 0 && end > n.size {
			n.size = end
			n.touch(e)
		}
		n.ctime = e.now
		return 0, nil
	case "copy":
		dst := e.node(o.ino2)
		if o.ino == o.ino2 && o.off < o.off2+o.length && o.off2 < o.off+o.length {
			return 0, meta.ErrInvalid
		}
		if uint64(o.off) >= n.size {
			return 0, nil
		}
		length := min(uint64(o.length), n.size-uint64(o.off))
		data := n.read(uint64(o.off), uint64(o.off)+length)
		dst.write(data, uint64(o.off2))
		dst.size = max(dst.size, uint64(o.off2)+length)
		dst.touch(e)
		return length, nil
	}
	panic("unknown operation " + o.kind)
}

func (o op) create(e *draft) (uint64, error) {
	dir := e.node(o.ino)
	if !dir.isDir() {
		return 0, meta.ErrNotDir
	}
	if dir.nlink == 0 {
		return 0, meta.ErrNotFound
	}
	if _, taken := dir.entries[o.name]; taken {
		return 0, meta.ErrExist
	}
	mode := o.mode
	switch o.kind {
	case "mkdir":
		mode = mode&0o7777 | unix.S_IFDIR
	case "symlink":
		mode = 0o777 | unix.S_IFLNK
	case "tmpfile":
		mode = mode&0o7777 | unix.S_IFREG
	}
	ino, n := e.add(mode)
	n.uid, n.gid = o.callerUID, o.callerUID
	if dir.mode&unix.S_ISGID != 0 {
		n.gid = dir.gid
		if n.isDir() {
			n.mode |= unix.S_ISGID
		}
	}
	if o.kind != "symlink" {
		n.inherit(dir, o.callerMask)
	}
	switch o.kind {
	case "mknod":
		if m := mode & unix.S_IFMT; m == unix.S_IFCHR || m == unix.S_IFBLK {
			n.rdev = uint32(o.off)
		}
	case "mkdir":
		n.parent = o.ino
		dir.nlink++
	case "symlink":
		n.target, n.size = o.value, uint64(len(o.value))
	case "tmpfile":
		n.nlink, n.linkable = 0, true
		return ino, nil
	}
	dir.entries[o.name] = ino
	dir.touch(e)
	return ino, nil
}

func (o op) link(e *draft) (uint64, error) {
	dir, n := e.node(o.ino2), e.node(o.ino)
	if dir.nlink == 0 {
		return 0, meta.ErrNotFound
	}
	if _, taken := dir.entries[o.name2]; taken {
		return 0, meta.ErrExist
	}
	if n.isDir() {
		return 0, meta.ErrPerm
	}
	n.nlink++
	n.ctime = e.now
	dir.entries[o.name2] = o.ino
	dir.touch(e)
	return o.ino, nil
}

// drop takes a name away from an inode.
func (n *node) drop(e *draft) {
	n.ctime = e.now
	if n.nlink--; n.isDir() {
		n.nlink = 0
	}
	n.linkable = false
}

func (o op) remove(e *draft) error {
	dir := e.node(o.ino)
	ino, ok := dir.entries[o.name]
	if !ok {
		return meta.ErrNotFound
	}
	n := e.node(ino)
	switch {
	case o.kind == "unlink" && n.isDir():
		return meta.ErrIsDir
	case o.kind == "rmdir" && !n.isDir():
		return meta.ErrNotDir
	case o.kind == "rmdir" && len(n.entries) > 0:
		return meta.ErrNotEmpty
	}
	delete(dir.entries, o.name)
	dir.touch(e)
	if n.isDir() {
		dir.nlink--
	}
	n.drop(e)
	return nil
}

// inside reports whether directory ino is top or below it.
func (m *model) inside(ino, top uint64) bool {
	for ; ino != top; ino = m.nodes[ino].parent {
		if ino == m.root {
			return false
		}
	}
	return true
}

func (o op) rename(e *draft) error {
	from, to := e.node(o.ino), e.node(o.ino2)
	srcIno, ok := from.entries[o.name]
	if !ok {
		return meta.ErrNotFound
	}
	if to.nlink == 0 {
		return meta.ErrNotFound
	}
	src := e.node(srcIno)
	dstIno, exists := to.entries[o.name2]
	exchange := o.mode == meta.RenameExchange
	switch {
	case exchange && !exists:
		return meta.ErrNotFound
	case o.mode == meta.RenameNoReplace && exists:
		return meta.ErrExist
	case src.isDir() && e.inside(o.ino2, srcIno):
		return meta.ErrInvalid
	case srcIno == dstIno && exists:
		return nil // two names of one inode: nothing happens, not even to the times
	}
	move := func(n *node, from, to *node, toIno uint64) {
		n.ctime = e.now
		from.touch(e)
		to.touch(e)
		if n.isDir() {
			from.nlink--
			to.nlink++
			n.parent = toIno
		}
	}
	if !exists {
		delete(from.entries, o.name)
		to.entries[o.name2] = srcIno
		move(src, from, to, o.ino2)
		o.whiteout(e)
		return nil
	}
	dst := e.node(dstIno)
	if exchange {
		if dst.isDir() && e.inside(o.ino, dstIno) {
			return meta.ErrInvalid
		}
		from.entries[o.name], to.entries[o.name2] = dstIno, srcIno
		move(src, from, to, o.ino2)
		move(dst, to, from, o.ino)
		return nil
	}
	switch {
	case src.isDir() && !dst.isDir():
		return meta.ErrNotDir
	case !src.isDir() && dst.isDir():
		return meta.ErrIsDir
	case dst.isDir() && len(dst.entries) > 0:
		return meta.ErrNotEmpty
	}
	delete(from.entries, o.name)
	to.entries[o.name2] = srcIno
	move(src, from, to, o.ino2)
	if dst.isDir() {
		to.nlink--
	}
	dst.drop(e)
	o.whiteout(e)
	return nil
}

// whiteout is what such a rename leaves under the old name.
func (o op) whiteout(e *draft) {
	if o.mode != meta.RenameWhiteout {
		return
	}
	ino, n := e.add(unix.S_IFCHR)
	n.uid, n.gid = o.callerUID, o.callerUID
	e.node(o.ino).entries[o.name] = ino
}

// sameOutcome compares what volume and model answered. Which of several errors
// a rename fails with is left open: the kernel has checked most of it before.
func sameOutcome(o op, got, want outcome) bool {
	if want.err != nil && o.kind == "rename" {
		return got.err != nil && !errors.Is(got.err, meta.ErrFailed)
	}
	if want.err != nil {
		return errors.Is(got.err, want.err)
	}
	return got.err == nil && got.value == want.value
}

func isErr(err, want error) bool { return errors.Is(err, want) }
