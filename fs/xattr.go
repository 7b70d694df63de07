package fs

import (
	"strings"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxXattr is the largest value Linux knows.
const maxXattr = 64 << 10

// xattrName reports whether a name is in one of the namespaces a volume keeps.
func xattrName(name string) bool {
	for _, p := range []string{"user.", "trusted.", "security."} {
		if strings.HasPrefix(name, p) && len(name) > len(p) {
			return true
		}
	}
	return name == aclAccess || name == aclDefault
}

// The two access control lists of a file, kept as extended attributes.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// GetXAttr returns a value, or its size if dest is empty.
func (a *adapter) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if !xattrName(name) {
		return 0, fuse.Status(unix.EOPNOTSUPP)
	}
	v, err := a.vol.GetXattr(h.NodeId, name)
	if err != nil {
		return 0, a.errs.status("getxattr", h.NodeId, err)
	}
	if len(dest) < len(v) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

// ListXAttr returns the names, each ended by a zero byte. Names that only the
// privileged can read are not shown to others, which the kernel leaves to us.
func (a *adapter) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	names, err := a.vol.ListXattr(h.NodeId)
	if err != nil {
		return 0, a.errs.status("listxattr", h.NodeId, err)
	}
	var list []byte
	for _, n := range names {
		if h.Uid != 0 && strings.HasPrefix(n, "trusted.") {
			continue
		}
		list = append(append(list, n...), 0)
	}
	if len(list) > maxXattr {
		return 0, fuse.Status(unix.E2BIG)
	}
	if len(dest) < len(list) {
		return uint32(len(list)), fuse.ERANGE
	}
	return uint32(copy(dest, list)), fuse.OK
}

// SetXAttr sets a value.
func (a *adapter) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if !xattrName(name) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	if int(in.Size) > len(value) {
		return fuse.EINVAL
	}
	value = value[:in.Size]
	if name == aclAccess && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		if err := a.clearSGID(in.NodeId); err != nil {
			return a.errs.status("setxattr", in.NodeId, err)
		}
	}
	err := a.vol.SetXattr(a.caller(&in.InHeader), in.NodeId, name, value, in.Flags)
	return a.errs.status("setxattr", in.NodeId, err)
}

// clearSGID takes set-group-ID from a file whose access list is set by somebody
// outside its group. It comes before the list itself: a crash in between leaves
// fewer rights, not more. It may be done twice, so it carries no request number.
func (a *adapter) clearSGID(ino uint64) error {
	at, err := a.vol.GetAttr(ino)
	if err != nil || at.Mode&unix.S_ISGID == 0 {
		return err
	}
	mode := at.Mode & 07777 &^ unix.S_ISGID
	_, err = a.vol.SetAttr(meta.Caller{}, ino, meta.SetAttr{Mode: &mode})
	return err
}

// RemoveXAttr removes a value.
func (a *adapter) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if !xattrName(name) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return a.errs.status("removexattr", h.NodeId, a.vol.RemoveXattr(a.caller(h), h.NodeId, name))
}
