package meta

import (
	"errors"
)

// SetAttr changes attributes, the size among them, as one operation.
func (v *Volume) SetAttr(c Caller, ino uint64, s SetAttr) (a Attr, err error) {
	if err := v.admit(0); err != nil {
		return a, err
	}
	change := func(t *tx, n *inode) error {
		if err := t.setAttr(c, n, &s); err != nil {
			return err
		}
		t.putInode(n)
		t.result = n.ino
		a = n.attr()
		return nil
	}
	var result uint64
	var replayed bool
	if s.Size != nil {
		lock := v.dataLock(ino)
		lock.Lock()
		defer lock.Unlock()
		result, replayed, err = v.setSize(c, ino, *s.Size, change)
	} else {
		result, replayed, err = v.update(c, func(t *tx) error {
			n, err := t.inode(ino)
			if err != nil {
				return err
			}
			return change(t, n)
		})
	}
	if err == nil && replayed {
		return v.GetAttr(result)
	}
	return a, err
}

// setAttr changes everything but the size.
func (t *tx) setAttr(c Caller, n *inode, s *SetAttr) error {
	if s.UID != nil || s.GID != nil {
		if s.UID != nil {
			n.uid = *s.UID
		}
		if s.GID != nil {
			n.gid = *s.GID
		}
		if !n.isDir() {
			// The rule on foreign groups is for writers: whoever may change the
			// group is in it, perhaps by a supplementary one, which c does not say.
			if err := t.dropPrivileges(Caller{}, n); err != nil {
				return err
			}
		}
	}
	if s.Size != nil && c.KillPriv {
		if err := t.dropPrivileges(c, n); err != nil {
			return err
		}
	}
	if s.Mode != nil {
		if err := t.chmod(n, *s.Mode); err != nil {
			return err
		}
	}
	if s.Atime != nil {
		n.atime = timeToDisk(*s.Atime)
		t.v.atimes.drop(n.ino)
	}
	if s.Mtime != nil {
		n.mtime = timeToDisk(*s.Mtime)
	}
	n.ctime = t.now
	if s.Ctime != nil {
		n.ctime = timeToDisk(*s.Ctime)
	}
	return nil
}

// xattrCapability holds file capabilities, which end when others may have
// changed the file.
const xattrCapability = "security.capability"

// dropPrivileges clears what would let a changed file run with more rights than
// its writer has: set-user-ID, set-group-ID and capabilities.
func (t *tx) dropPrivileges(c Caller, n *inode) error {
	if !n.isDir() {
		n.clearPriv(c)
	}
	return t.dropCapability(n)
}

// dropCapability removes a file's capabilities, as every write must.
func (t *tx) dropCapability(n *inode) error {
	if n.xattrs == 0 {
		return nil
	}
	if err := t.removeXattr(n, xattrCapability); err != nil && !errors.Is(err, ErrNoAttr) {
		return err
	}
	return nil
}
