package meta

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Rename moves a name. What newName was is replaced atomically: after any crash
// newName is the old or the new inode, never missing. flags are those of
// renameat2(2).
func (v *Volume) Rename(c Caller, oldParent uint64, oldName string, newParent uint64, newName string, flags uint32) error {
	if err := errors.Join(checkName(oldName), checkName(newName)); err != nil {
		if len(oldName) > MaxName || len(newName) > MaxName {
			return ErrNameTooLong
		}
		return ErrInvalid
	}
	if flags&^(RenameNoReplace|RenameExchange|RenameWhiteout) != 0 ||
		flags&RenameExchange != 0 && flags != RenameExchange {
		return ErrInvalid
	}
	if err := v.admit(growth); err != nil {
		return err
	}
	v.warm(oldParent, oldName)
	v.warm(newParent, newName)
	_, _, err := v.update(c, func(t *tx) error {
		r := &rename{tx: t, c: c, oldName: oldName, newName: newName}
		if err := r.load(oldParent, newParent); err != nil {
			return err
		}
		if flags&RenameExchange != 0 {
			return r.exchange()
		}
		return r.move(flags)
	})
	return err
}

// rename holds the inodes one rename touches; from and to may be one.
type rename struct {
	*tx
	c                Caller
	from, to         *inode // directories
	oldName, newName string
	moved            *inode
	target           *inode // what newName was, nil = nothing
}

func (r *rename) load(oldParent, newParent uint64) (err error) {
	if r.from, err = r.dir(oldParent); err != nil {
		return err
	}
	r.to = r.from
	if newParent != oldParent {
		if r.to, err = r.dir(newParent); err != nil {
			return err
		}
	}
	if r.moved, err = r.child(oldParent, r.oldName); err != nil {
		return err
	}
	r.target, err = r.child(newParent, r.newName)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	if err != nil {
		return err
	}
	if r.target != nil && r.target.ino == r.moved.ino {
		r.target = r.moved
	}
	return nil
}

func (r *rename) move(flags uint32) error {
	if r.target != nil {
		if flags&RenameNoReplace != 0 {
			return ErrExist
		}
		if r.target == r.moved {
			return nil // two names of one inode: POSIX says nothing happens
		}
		if err := r.replaceable(); err != nil {
			return err
		}
	}
	if r.from != r.to && r.moved.isDir() {
		if err := r.notBelow(r.to, r.moved.ino); err != nil {
			return err
		}
		if r.target == nil && r.to.nlink >= maxLinks {
			return ErrTooManyLink
		}
	}
	if r.target != nil {
		if r.target.isDir() {
			r.to.nlink--
		}
		r.to.entries--
		r.dropLink(r.target)
	}
	if err := r.setEntry(r.from.ino, dirent{name: r.oldName}); err != nil {
		return err
	}
	r.from.entries--
	if err := r.setEntry(r.to.ino, dirent{ino: r.moved.ino, mode: r.moved.mode, name: r.newName}); err != nil {
		return err
	}
	r.to.entries++
	if r.moved.isDir() {
		r.from.nlink--
		r.to.nlink++
		r.moved.parent = r.to.ino
	}
	if flags&RenameWhiteout != 0 {
		if err := r.whiteout(); err != nil {
			return err
		}
	}
	return r.finish()
}

// replaceable checks that the moved inode may take the target's name.
func (r *rename) replaceable() error {
	switch {
	case r.moved.isDir() && !r.target.isDir():
		return ErrNotDir
	case !r.moved.isDir() && r.target.isDir():
		return ErrIsDir
	case r.target.entries > 0:
		return ErrNotEmpty
	}
	return nil
}

// notBelow refuses to move a directory into itself.
func (r *rename) notBelow(dir *inode, ino uint64) error {
	for dir.ino != RootIno {
		if dir.ino == ino {
			return ErrInvalid
		}
		up, err := r.inode(dir.parent)
		if err != nil {
			return err
		}
		dir = up
	}
	return nil
}

func (r *rename) exchange() error {
	if r.target == nil {
		return ErrNotFound
	}
	if r.target == r.moved {
		return nil
	}
	if r.from != r.to {
		if r.moved.isDir() {
			if err := r.notBelow(r.to, r.moved.ino); err != nil {
				return err
			}
		}
		if r.target.isDir() {
			if err := r.notBelow(r.from, r.target.ino); err != nil {
				return err
			}
		}
	}
	if err := r.setEntry(r.from.ino, dirent{ino: r.target.ino, mode: r.target.mode, name: r.oldName}); err != nil {
		return err
	}
	if err := r.setEntry(r.to.ino, dirent{ino: r.moved.ino, mode: r.moved.mode, name: r.newName}); err != nil {
		return err
	}
	if r.moved.isDir() {
		r.from.nlink--
		r.to.nlink++
		r.moved.parent = r.to.ino
	}
	if r.target.isDir() {
		r.to.nlink--
		r.from.nlink++
		r.target.parent = r.from.ino
	}
	r.target.ctime = r.now
	r.putInode(r.target)
	return r.finish()
}

// whiteout leaves a character device 0:0 under the old name, which overlayfs
// reads as "deleted here".
func (r *rename) whiteout() error {
	n := r.newInode(unix.S_IFCHR, r.c.UID, r.c.GID)
	r.putInode(n)
	if err := r.setEntry(r.from.ino, dirent{ino: n.ino, mode: n.mode, name: r.oldName}); err != nil {
		return err
	}
	r.from.entries++
	return nil
}

// finish stamps and stores what both forms touch.
func (r *rename) finish() error {
	r.moved.ctime = r.now
	r.putInode(r.moved)
	for _, dir := range []*inode{r.from, r.to} {
		dir.mtime, dir.ctime = r.now, r.now
		r.putInode(dir)
	}
	return nil
}
