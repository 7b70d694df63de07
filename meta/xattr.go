package meta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxXattr is the largest value, in bytes: the kernel's own limit.
	maxXattr = 64 << 10
	// maxXattrs bounds how many an inode has, so that listing stays one reply.
	maxXattrs = 1024
)

// xattr is one extended attribute. A tableXattr value holds all of an inode
// with one name hash: almost always one.
type xattr struct {
	name  string
	value []byte
}

const xattrVersion = 1

func marshalXattrs(list []xattr) []byte {
	b := []byte{xattrVersion}
	for _, x := range list {
		b = append(append(b, byte(len(x.name))), x.name...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(x.value)))
		b = append(b, x.value...)
	}
	return b
}

var errXattr = errors.New("malformed extended attribute")

func unmarshalXattrs(b []byte) ([]xattr, error) {
	if b == nil {
		return nil, nil
	}
	d := decoder{b: b}
	if d.u8() != xattrVersion {
		return nil, errVersion
	}
	var list []xattr
	for len(d.b) > 0 && !d.bad {
		x := xattr{name: string(d.take(int(d.u8())))}
		x.value = d.take(int(d.u32()))
		if x.name == "" {
			return nil, errXattr
		}
		list = append(list, x)
	}
	if d.bad || len(list) == 0 {
		return nil, errXattr
	}
	return list, nil
}

func decodeXattrs(k key, val []byte) ([]xattr, error) {
	list, err := unmarshalXattrs(val)
	if err != nil {
		return nil, &CorruptError{Where: k.String(), Err: err}
	}
	return list, nil
}

func (v *Volume) xattrKey(ino uint64, name string) key {
	return key{tableXattr, ino, v.keys.xattrs.NameHash(ino, name)}
}

// lookupXattr finds an attribute. get reads a value of the state.
func lookupXattr(get func(key) ([]byte, error), k key, name string) (value []byte, list []xattr, err error) {
	val, err := get(k)
	if err != nil {
		return nil, nil, err
	}
	if list, err = decodeXattrs(k, val); err != nil {
		return nil, nil, err
	}
	for _, x := range list {
		if x.name == name {
			return x.value, list, nil
		}
	}
	return nil, list, ErrNoAttr
}

// GetXattr returns the value of an extended attribute, or ErrNoAttr.
func (v *Volume) GetXattr(ino uint64, name string) (value []byte, err error) {
	err = v.view(func() error {
		n, err := v.inodeOf(ino)
		if err != nil {
			return err
		}
		if n.xattrs == 0 {
			return ErrNoAttr
		}
		value, _, err = lookupXattr(v.get, v.xattrKey(ino, name), name)
		value = bytes.Clone(value)
		return err
	})
	return value, err
}

// ListXattr returns the names of an inode's extended attributes.
func (v *Volume) ListXattr(ino uint64) (names []string, err error) {
	err = v.view(func() error {
		n, err := v.inodeOf(ino)
		if err != nil || n.xattrs == 0 {
			return err
		}
		var bad error
		err = v.scan(key{tableXattr, ino, 0}, func(k key, val []byte) bool {
			var list []xattr
			if list, bad = decodeXattrs(k, val); bad != nil {
				return false
			}
			for _, x := range list {
				names = append(names, x.name)
			}
			return true
		})
		return errors.Join(bad, err)
	})
	return names, err
}

func checkXattr(name string, value []byte) error {
	switch {
	case name == "" || strings.ContainsRune(name, 0):
		return ErrInvalid
	case len(name) > MaxName:
		return ErrNameTooLong
	case len(value) > maxXattr:
		return ErrAttrTooBig
	}
	return nil
}

// SetXattr sets an extended attribute; flags are 0, unix.XATTR_CREATE or
// unix.XATTR_REPLACE. Setting an access ACL sets the mode too.
func (v *Volume) SetXattr(c Caller, ino uint64, name string, value []byte, flags uint32) error {
	if err := checkXattr(name, value); err != nil {
		return err
	}
	if err := v.admit(growth + len(value)); err != nil {
		return err
	}
	_, _, err := v.update(c, func(t *tx) error {
		n, err := t.inode(ino)
		if err != nil {
			return err
		}
		n.ctime = t.now
		switch name {
		case xattrACLAccess, xattrACLDefault:
			err = t.setACL(c, n, name, value)
		default:
			err = t.setXattr(n, name, value, flags)
		}
		t.putInode(n)
		return err
	})
	return err
}

// setXattr stores an attribute and counts it; the caller puts the inode.
func (t *tx) setXattr(n *inode, name string, value []byte, flags uint32) error {
	k := t.v.xattrKey(n.ino, name)
	_, list, err := lookupXattr(t.get, k, name)
	switch {
	case err == nil && flags&unix.XATTR_CREATE != 0:
		return ErrExist
	case errors.Is(err, ErrNoAttr) && flags&unix.XATTR_REPLACE != 0:
		return ErrNoAttr
	case errors.Is(err, ErrNoAttr):
		if n.xattrs >= maxXattrs {
			return ErrAttrTooBig
		}
		n.xattrs++
	case err != nil:
		return err
	}
	t.put(k, marshalXattrs(append(without(list, name), xattr{name, bytes.Clone(value)})))
	return nil
}

func without(list []xattr, name string) []xattr {
	out := make([]xattr, 0, len(list)+1)
	for _, x := range list {
		if x.name != name {
			out = append(out, x)
		}
	}
	return out
}

// RemoveXattr removes an extended attribute, or fails with ErrNoAttr.
func (v *Volume) RemoveXattr(c Caller, ino uint64, name string) error {
	if err := checkXattr(name, nil); err != nil {
		return err
	}
	if err := v.admit(0); err != nil {
		return err
	}
	_, _, err := v.update(c, func(t *tx) error {
		n, err := t.inode(ino)
		if err != nil {
			return err
		}
		if err := t.removeXattr(n, name); err != nil {
			return err
		}
		n.ctime = t.now
		t.putInode(n)
		return nil
	})
	return err
}

func (t *tx) removeXattr(n *inode, name string) error {
	k := t.v.xattrKey(n.ino, name)
	_, list, err := lookupXattr(t.get, k, name)
	if err != nil {
		return err
	}
	n.xattrs--
	if list = without(list, name); len(list) == 0 {
		t.del(k)
	} else {
		t.put(k, marshalXattrs(list))
	}
	return nil
}

// removeXattrs removes all attributes of an inode that goes away.
func (t *tx) removeXattrs(n *inode) error {
	if n.xattrs == 0 {
		return nil
	}
	var keys []key
	err := t.v.scan(key{tableXattr, n.ino, 0}, func(k key, _ []byte) bool {
		keys = append(keys, k)
		return true
	})
	for _, k := range keys {
		t.del(k)
	}
	return err
}

// setACL stores an ACL attribute; an empty value removes it. The access ACL is
// also the mode: its bits follow, and one that says no more is not stored.
func (t *tx) setACL(c Caller, n *inode, name string, value []byte) error {
	if n.mode&unix.S_IFMT == unix.S_IFLNK {
		return ErrUnsupported
	}
	acl, err := canonicalACL(value)
	if err != nil {
		return err
	}
	if name == xattrACLDefault {
		if !n.isDir() {
			if acl == nil {
				return nil
			}
			return ErrPerm
		}
		return t.storeACL(n, name, acl)
	}
	if acl != nil {
		mode, minimal, err := aclToMode(acl, n.mode)
		if err != nil {
			return err
		}
		n.mode = mode
		if c.KillPriv {
			n.mode &^= unix.S_ISGID // the caller is not in the file's group
		}
		if minimal {
			acl = nil
		}
	}
	return t.storeACL(n, name, acl)
}

func (t *tx) storeACL(n *inode, name string, acl []byte) error {
	if acl != nil {
		return t.setXattr(n, name, acl, 0)
	}
	if err := t.removeXattr(n, name); err != nil && !errors.Is(err, ErrNoAttr) {
		return err
	}
	return nil
}

// acl reads an ACL attribute of an inode, nil if it has none.
func (t *tx) acl(n *inode, name string) ([]byte, error) {
	if n.xattrs == 0 {
		return nil, nil
	}
	acl, _, err := lookupXattr(t.get, t.v.xattrKey(n.ino, name), name)
	if errors.Is(err, ErrNoAttr) {
		err = nil
	}
	return acl, err
}

// inherit gives a new inode the ACLs that its directory's default ACL implies,
// or applies the umask if there is none.
func (t *tx) inherit(dir, n *inode, umask uint32) error {
	parent, err := t.acl(dir, xattrACLDefault)
	if err != nil {
		return err
	}
	if parent == nil {
		n.mode &^= umask & permBits
		return nil
	}
	access, dflt, mode, err := inheritACL(parent, n.mode, n.isDir())
	if err != nil {
		return err
	}
	n.mode = mode
	for name, acl := range map[string][]byte{xattrACLAccess: access, xattrACLDefault: dflt} {
		if acl == nil {
			continue
		}
		if err := t.setXattr(n, name, acl, 0); err != nil {
			return err
		}
	}
	return nil
}

// chmod changes the permission bits, and the access ACL with them.
func (t *tx) chmod(n *inode, perm uint32) error {
	n.mode = n.mode&unix.S_IFMT | perm&0o7777
	old, err := t.acl(n, xattrACLAccess)
	if err != nil || old == nil {
		return err
	}
	acl, err := chmodACL(old, n.mode)
	if err != nil {
		return err
	}
	return t.setXattr(n, xattrACLAccess, acl, 0)
}
