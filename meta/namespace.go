package meta

import (
	"errors"

	"golang.org/x/sys/unix"
)

// maxLinks is how many names an inode may have, as on ext4 for files.
const maxLinks = 65000

// Lookup finds a name in a directory; "." and ".." work too, and "." on an
// inode that is no directory returns itself, as exporting by handle needs.
func (v *Volume) Lookup(parent uint64, name string) (a Attr, err error) {
	if len(name) > MaxName {
		return a, ErrNameTooLong
	}
	err = v.view(func() error {
		if name == "." || name == ".." {
			n, err := v.inodeOf(parent)
			if err == nil && name == ".." {
				if !n.isDir() {
					return ErrNotDir
				}
				n, err = v.inodeOf(n.parent)
			}
			if err != nil {
				return err
			}
			a = n.attr()
			return nil
		}
		k := v.direntKey(parent, name)
		val, err := v.get(k)
		if err != nil {
			return err
		}
		e, err := findDirent(k, val, name)
		if err != nil {
			return err
		}
		n, err := v.inodeOf(e.ino)
		if err != nil {
			return dangling(k, err)
		}
		a = n.attr()
		return nil
	})
	return a, err
}

// dangling reports an entry whose inode is missing: damage, no stale handle.
func dangling(k key, err error) error {
	if errors.Is(err, ErrStale) {
		return &CorruptError{Where: k.String(), Err: err}
	}
	return err
}

// GetAttr returns an inode's attributes. ErrStale if there is none.
func (v *Volume) GetAttr(ino uint64) (a Attr, err error) {
	err = v.view(func() error {
		n, err := v.inodeOf(ino)
		if err == nil {
			a = n.attr()
		}
		return err
	})
	return a, err
}

// Readlink returns what a symbolic link points at.
func (v *Volume) Readlink(ino uint64) (target string, err error) {
	err = v.view(func() error {
		n, err := v.inodeOf(ino)
		if err != nil {
			return err
		}
		if n.mode&unix.S_IFMT != unix.S_IFLNK {
			return ErrInvalid
		}
		target = string(n.target)
		return nil
	})
	return target, err
}

// attrAfter runs an operation whose result is an inode, and returns its
// attributes: those of the moment, or the present ones for a repeated request.
func (v *Volume) attrAfter(c Caller, fn func(t *tx) (*inode, error)) (a Attr, err error) {
	result, replayed, err := v.update(c, func(t *tx) error {
		n, err := fn(t)
		if err != nil {
			return err
		}
		t.result = n.ino
		a = n.attr()
		return nil
	})
	if err == nil && replayed {
		return v.GetAttr(result)
	}
	return a, err
}

// growth is what admission takes an operation on names to need, in bytes.
const growth = 1024

// newEntry makes a new inode of the given mode under a name. fill completes it.
func (v *Volume) newEntry(c Caller, parent uint64, name string, mode uint32, fill func(n *inode)) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	if err := v.admit(growth); err != nil {
		return Attr{}, err
	}
	v.warm(parent, name)
	return v.attrAfter(c, func(t *tx) (*inode, error) {
		dir, err := t.dirFor(parent, name)
		if err != nil {
			return nil, err
		}
		n, err := t.create(c, dir, mode)
		if err != nil {
			return nil, err
		}
		fill(n)
		if n.isDir() {
			if dir.nlink >= maxLinks {
				return nil, ErrTooManyLink
			}
			n.parent, n.nlink = dir.ino, 2
			dir.nlink++
		}
		t.putInode(n)
		return n, t.link(dir, name, n)
	})
}

// dirFor reads the directory a new name goes into and refuses a name in use.
func (t *tx) dirFor(parent uint64, name string) (*inode, error) {
	dir, err := t.dir(parent)
	if err != nil {
		return nil, err
	}
	switch _, err := t.entry(parent, name); {
	case err == nil:
		return nil, ErrExist
	case errors.Is(err, ErrNotFound):
		return dir, nil
	default:
		return nil, err
	}
}

// dir reads a directory that entries are about to change in.
func (t *tx) dir(ino uint64) (*inode, error) {
	dir, err := t.inode(ino)
	if err != nil {
		return nil, err
	}
	if !dir.isDir() {
		return nil, ErrNotDir
	}
	if dir.nlink == 0 {
		return nil, ErrNotFound // removed while somebody was in it
	}
	return dir, nil
}

// create makes an inode as a child of dir: owner, group and permissions as
// POSIX and the directory's default ACL have them. The caller puts it.
func (t *tx) create(c Caller, dir *inode, mode uint32) (*inode, error) {
	gid := c.GID
	if dir.mode&unix.S_ISGID != 0 {
		gid = dir.gid
		if mode&unix.S_IFMT == unix.S_IFDIR {
			mode |= unix.S_ISGID
		}
	}
	n := t.newInode(mode, c.UID, gid)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.size = pageSize
	case unix.S_IFLNK:
		return n, nil // no permissions of its own
	}
	return n, t.inherit(dir, n, c.Umask)
}

// link enters a name and touches the directory.
func (t *tx) link(dir *inode, name string, n *inode) error {
	if err := t.setEntry(dir.ino, dirent{ino: n.ino, mode: n.mode, name: name}); err != nil {
		return err
	}
	dir.entries++
	dir.mtime, dir.ctime = t.now, t.now
	t.putInode(dir)
	return nil
}

// warm reads what an operation on a name needs before it takes the state lock
// exclusively, so that a read from disk under that lock is rare.
func (v *Volume) warm(parent uint64, name string) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, _ = v.get(key{tableInode, parent, 0})
	_, _ = v.get(v.direntKey(parent, name))
}

// Mknod makes a regular file, device, FIFO or socket.
func (v *Volume) Mknod(c Caller, parent uint64, name string, mode, rdev uint32) (Attr, error) {
	switch mode & unix.S_IFMT {
	case 0:
		mode |= unix.S_IFREG
	case unix.S_IFREG, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return Attr{}, ErrInvalid
	}
	return v.newEntry(c, parent, name, mode&(unix.S_IFMT|0o7777), func(n *inode) {
		if m := mode & unix.S_IFMT; m == unix.S_IFCHR || m == unix.S_IFBLK {
			n.rdev = rdev
		}
	})
}

// Mkdir makes a directory.
func (v *Volume) Mkdir(c Caller, parent uint64, name string, mode uint32) (Attr, error) {
	return v.newEntry(c, parent, name, unix.S_IFDIR|mode&0o7777, func(*inode) {})
}

// maxTarget is the longest target of a symbolic link, as on ext4.
const maxTarget = 4095

// Symlink makes a symbolic link to target.
func (v *Volume) Symlink(c Caller, parent uint64, name, target string) (Attr, error) {
	if target == "" {
		return Attr{}, ErrNotFound
	}
	if len(target) > maxTarget {
		return Attr{}, ErrNameTooLong
	}
	return v.newEntry(c, parent, name, unix.S_IFLNK|0o777, func(n *inode) {
		n.target, n.size = []byte(target), uint64(len(target))
	})
}

// Tmpfile makes a regular file without a name. It lives until the kernel
// forgets it, or for good once Link gives it a name.
func (v *Volume) Tmpfile(c Caller, parent uint64, mode uint32) (Attr, error) {
	if err := v.admit(growth); err != nil {
		return Attr{}, err
	}
	return v.attrAfter(c, func(t *tx) (*inode, error) {
		dir, err := t.dir(parent)
		if err != nil {
			return nil, err
		}
		n, err := t.create(c, dir, unix.S_IFREG|mode&0o7777)
		if err != nil {
			return nil, err
		}
		n.nlink = 0
		t.putInode(n)
		t.orphan(n)
		return n, nil
	})
}

// orphan remembers an inode without a name, to be removed when the kernel has
// forgotten it.
func (t *tx) orphan(n *inode) {
	t.put(key{tableOrphan, n.ino, 0}, encodeCount(1))
	t.orphans = append(t.orphans, n.ino)
}

// Link gives an inode another name.
func (v *Volume) Link(c Caller, ino, parent uint64, name string) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	if err := v.admit(growth); err != nil {
		return Attr{}, err
	}
	return v.attrAfter(c, func(t *tx) (*inode, error) {
		dir, err := t.dirFor(parent, name)
		if err != nil {
			return nil, err
		}
		n, err := t.inode(ino)
		if err != nil {
			return nil, err
		}
		if n.isDir() {
			return nil, ErrPerm
		}
		if n.nlink >= maxLinks {
			return nil, ErrTooManyLink
		}
		if n.nlink == 0 {
			t.del(key{tableOrphan, ino, 0})
			t.named = append(t.named, ino)
		}
		n.nlink++
		n.ctime = t.now
		t.putInode(n)
		return n, t.link(dir, name, n)
	})
}

// Unlink removes a name of anything but a directory.
func (v *Volume) Unlink(c Caller, parent uint64, name string) error {
	return v.removeName(c, parent, name, func(n *inode) error {
		if n.isDir() {
			return ErrIsDir
		}
		return nil
	})
}

// Rmdir removes an empty directory.
func (v *Volume) Rmdir(c Caller, parent uint64, name string) error {
	if name == "." {
		return ErrInvalid
	}
	return v.removeName(c, parent, name, func(n *inode) error {
		if !n.isDir() {
			return ErrNotDir
		}
		if n.entries > 0 {
			return ErrNotEmpty
		}
		return nil
	})
}

func (v *Volume) removeName(c Caller, parent uint64, name string, check func(*inode) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := v.admit(0); err != nil {
		return err
	}
	v.warm(parent, name)
	_, _, err := v.update(c, func(t *tx) error {
		dir, err := t.dir(parent)
		if err != nil {
			return err
		}
		n, err := t.child(parent, name)
		if err != nil {
			return err
		}
		if err := check(n); err != nil {
			return err
		}
		if err := t.setEntry(parent, dirent{name: name}); err != nil {
			return err
		}
		dir.entries--
		dir.mtime, dir.ctime = t.now, t.now
		if n.isDir() {
			dir.nlink--
		}
		t.putInode(dir)
		t.dropLink(n)
		return nil
	})
	return err
}

// child reads the inode behind a name.
func (t *tx) child(parent uint64, name string) (*inode, error) {
	e, err := t.entry(parent, name)
	if err != nil {
		return nil, err
	}
	n, err := t.inode(e.ino)
	if err != nil {
		return nil, dangling(t.v.direntKey(parent, name), err)
	}
	return n, nil
}

// dropLink takes one name from an inode; without any it becomes an orphan.
func (t *tx) dropLink(n *inode) {
	n.ctime = t.now
	if n.isDir() {
		n.nlink = 0
	} else {
		n.nlink--
	}
	if n.nlink == 0 {
		t.orphan(n)
	}
	t.putInode(n)
}

// Orphans lists inodes without a name that still exist. After a fresh mount
// the kernel holds none of them, and the caller forgets each.
func (v *Volume) Orphans() []uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]uint64, 0, len(v.orphans))
	for ino := range v.orphans {
		out = append(out, ino)
	}
	return out
}

// Forget says that the kernel holds an inode no more. Without a name, it and
// its data are removed. Nobody waits for that: a crash soon after may leave the
// orphan, to be forgotten again.
func (v *Volume) Forget(ino uint64) error {
	if !v.isOrphan(ino) {
		return nil
	}
	if err := v.admit(0); err != nil {
		return err
	}
	lock := v.dataLock(ino)
	lock.Lock()
	defer lock.Unlock()
	for {
		seq, more, err := v.reap(ino)
		if err != nil || !more {
			return err
		}
		if err := v.written(seq); err != nil {
			return err // parts of a large file must not pile up in memory
		}
	}
}

// TryForget does what Forget does if it need not wait for anything. If done is
// false, or part of a large file is left, the caller calls Forget.
func (v *Volume) TryForget(ino uint64) (done bool, err error) {
	if !v.isOrphan(ino) {
		return true, nil
	}
	if err := v.stopped(); err != nil {
		return false, err
	}
	lock := v.dataLock(ino)
	if v.journal.used() >= busySlots || !lock.TryLock() {
		return false, nil
	}
	defer lock.Unlock()
	_, more, err := v.reap(ino)
	return err == nil && !more, err
}

func (v *Volume) isOrphan(ino uint64) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, orphan := v.orphans[ino]
	return orphan
}

// reap removes an orphan, or the end of a large one, and queues the operation.
// The caller holds the inode's data lock.
func (v *Volume) reap(ino uint64) (seq uint64, more bool, err error) {
	_, seq, _, err = v.updateQueued(Caller{}, func(t *tx) (err error) {
		more, err = t.reap(ino)
		return err
	})
	return seq, more, err
}

// reap removes an orphan, or the end of a large one.
func (t *tx) reap(ino uint64) (more bool, err error) {
	if _, still := t.v.orphans[ino]; !still {
		return false, nil // got a name meanwhile, or somebody else removed it
	}
	n, err := t.inode(ino)
	if err != nil {
		return false, err
	}
	if n.isRegular() && n.pages > 0 {
		down, err := t.unmap(n, 0, (max(n.size, 1)+pageSize-1)/pageSize)
		if err != nil {
			return false, err
		}
		if down > 0 {
			n.size = down * pageSize
			t.putInode(n)
			return true, nil
		}
	}
	if err := t.removeXattrs(n); err != nil {
		return false, err
	}
	t.del(key{tableInode, ino, 0})
	t.del(key{tableOrphan, ino, 0})
	t.reaped = append(t.reaped, ino)
	t.files--
	return false, nil
}
