package meta_test

import (
	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// The model takes the rules of ACLs from the engine: acl_test.go compares those
// with a table, and what the crash tests look for is an ACL that is lost, or a
// mode without its ACL.

func isACL(name string) bool { return name == meta.XattrACLAccess || name == meta.XattrACLDefault }

func bytesOrNil(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

func (n *node) setACL(name, value string) error {
	if name == meta.XattrACLDefault && !n.isDir() {
		return meta.ErrPerm
	}
	acl, err := meta.CanonicalACL([]byte(value))
	if err != nil {
		return err
	}
	if name == meta.XattrACLAccess && acl != nil {
		mode, minimal, err := meta.ACLToMode(acl, n.mode)
		if err != nil {
			return err
		}
		if n.mode = mode; minimal {
			acl = nil
		}
	}
	n.storeACL(name, acl)
	return nil
}

func (n *node) storeACL(name string, acl []byte) {
	if acl == nil {
		delete(n.xattrs, name)
		return
	}
	if n.xattrs == nil {
		n.xattrs = map[string]string{}
	}
	n.xattrs[name] = string(acl)
}

func (n *node) chmod(mode uint32) {
	n.mode = n.mode&unix.S_IFMT | mode&0o7777
	old := bytesOrNil(n.xattrs[meta.XattrACLAccess])
	if old == nil {
		return
	}
	acl, err := meta.ChmodACL(old, n.mode)
	if err != nil {
		panic(err) // it was accepted before
	}
	n.storeACL(meta.XattrACLAccess, acl)
}

// inherit completes the mode and the ACLs of a new child of dir.
func (n *node) inherit(dir *node, mask uint32) {
	parent := bytesOrNil(dir.xattrs[meta.XattrACLDefault])
	if parent == nil {
		n.mode &^= mask & 0o777
		return
	}
	access, dflt, mode, err := meta.InheritACL(parent, n.mode, n.isDir())
	if err != nil {
		panic(err) // it was accepted before
	}
	n.mode = mode
	n.storeACL(meta.XattrACLAccess, access)
	n.storeACL(meta.XattrACLDefault, dflt)
}
