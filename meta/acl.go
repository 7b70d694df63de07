package meta

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// The names under which Linux sets and gets POSIX ACLs.
const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
)

// An ACL as an extended attribute: version 2 as 4 bytes, then entries of tag
// (2), permissions (2) and user or group id (4), all little-endian. The rules
// below are those of the kernel's fs/posix_acl.c, which leaves them to the file
// system under FUSE.
const (
	aclVersion   = 2
	aclEntrySize = 8
	aclNoID      = 0xffffffff
)

// Entry tags, in the order they must have.
const (
	aclUserObj  = 0x01 // the file's owner
	aclUser     = 0x02 // a named user
	aclGroupObj = 0x04 // the file's group
	aclGroup    = 0x08 // a named group
	aclMask     = 0x10 // bounds everything but owner and other
	aclOther    = 0x20
)

const permBits = 0o777

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// parseACL decodes and validates an ACL. An empty value and one without entries
// are nil: setting them means to remove the ACL.
func parseACL(b []byte) ([]aclEntry, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) < 4 || (len(b)-4)%aclEntrySize != 0 {
		return nil, fmt.Errorf("ACL of %d bytes: %w", len(b), ErrInvalid)
	}
	if v := binary.LittleEndian.Uint32(b); v != aclVersion {
		return nil, fmt.Errorf("ACL version %d: %w", v, ErrUnsupported)
	}
	var acl []aclEntry
	for b = b[4:]; len(b) > 0; b = b[aclEntrySize:] {
		acl = append(acl, aclEntry{
			tag:  binary.LittleEndian.Uint16(b),
			perm: binary.LittleEndian.Uint16(b[2:]),
			id:   binary.LittleEndian.Uint32(b[4:]),
		})
	}
	if err := validateACL(acl); err != nil {
		return nil, err
	}
	return acl, nil
}

// validateACL checks permissions, ids and order: owner, users, group, groups,
// mask, other, where names require a mask.
func validateACL(acl []aclEntry) error {
	var last uint16
	named := false
	for i, e := range acl {
		ok := e.perm <= 7
		switch e.tag {
		case aclUserObj:
			ok = ok && last == 0
		case aclUser:
			ok = ok && (last == aclUserObj || last == aclUser) && e.id != aclNoID
			named = true
		case aclGroupObj:
			ok = ok && (last == aclUserObj || last == aclUser)
		case aclGroup:
			ok = ok && (last == aclGroupObj || last == aclGroup) && e.id != aclNoID
			named = true
		case aclMask:
			ok = ok && (last == aclGroupObj || last == aclGroup)
		case aclOther:
			ok = ok && (last == aclMask || !named && last == aclGroupObj)
		default:
			ok = false
		}
		if !ok {
			return fmt.Errorf("ACL entry %d: %w", i, ErrInvalid)
		}
		last = e.tag
	}
	if len(acl) > 0 && last != aclOther {
		return fmt.Errorf("ACL without its last entry: %w", ErrInvalid)
	}
	return nil
}

// marshalACL encodes an ACL; entries that are not for a named user or group
// get the id the kernel gives them.
func marshalACL(acl []aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+aclEntrySize*len(acl)), aclVersion)
	for _, e := range acl {
		if e.tag != aclUser && e.tag != aclGroup {
			e.id = aclNoID
		}
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// canonicalACL returns an ACL in the form it is stored and shown in, and nil
// for one without entries.
func canonicalACL(b []byte) ([]byte, error) {
	acl, err := parseACL(b)
	if err != nil || acl == nil {
		return nil, err
	}
	return marshalACL(acl), nil
}

// groupClass returns the entry that the group bits of a mode stand for: the
// mask, or without one the file's group. A valid ACL has it.
func groupClass(acl []aclEntry) *aclEntry {
	for _, tag := range []uint16{aclMask, aclGroupObj} {
		if i := slices.IndexFunc(acl, func(e aclEntry) bool { return e.tag == tag }); i >= 0 {
			return &acl[i]
		}
	}
	panic("meta: ACL without a group entry passed validation")
}

// inheritACL returns what a new file or directory gets from the default ACL of
// its parent: its access ACL (nil when the mode says it all), its default ACL
// (directories only) and its mode. A parent without default ACL changes
// nothing; then, and only then, the caller applies the umask.
func inheritACL(parentDefault []byte, mode uint32, isDir bool) (access, dflt []byte, newMode uint32, err error) {
	if parentDefault == nil {
		return nil, nil, mode, nil
	}
	acl, err := parseACL(parentDefault)
	if err != nil || acl == nil {
		return nil, nil, mode, err
	}
	perm := uint16(mode & permBits)
	// Every class keeps what both the ACL and the requested mode allow.
	for i := range acl {
		switch e := &acl[i]; e.tag {
		case aclUserObj:
			e.perm &= perm >> 6
			perm = perm&^0o700 | e.perm<<6
		case aclOther:
			e.perm &= perm & 7
			perm = perm&^0o007 | e.perm
		}
	}
	g := groupClass(acl)
	g.perm &= perm >> 3 & 7
	perm = perm&^0o070 | g.perm<<3
	if _, minimal := modeOfACL(acl); !minimal {
		access = marshalACL(acl)
	}
	if isDir {
		dflt = slices.Clone(parentDefault)
	}
	return access, dflt, mode&^permBits | uint32(perm), nil
}

// chmodACL returns an access ACL after a change of the mode.
func chmodACL(b []byte, mode uint32) ([]byte, error) {
	acl, err := parseACL(b)
	if err != nil || acl == nil {
		return nil, err
	}
	for i := range acl {
		switch e := &acl[i]; e.tag {
		case aclUserObj:
			e.perm = uint16(mode >> 6 & 7)
		case aclOther:
			e.perm = uint16(mode & 7)
		}
	}
	groupClass(acl).perm = uint16(mode >> 3 & 7)
	return marshalACL(acl), nil
}

// aclToMode returns the mode of a file whose access ACL is set. A minimal ACL
// says no more than the mode, and is not stored.
func aclToMode(b []byte, mode uint32) (newMode uint32, minimal bool, err error) {
	acl, err := parseACL(b)
	if err != nil || acl == nil {
		return mode, true, err
	}
	perm, minimal := modeOfACL(acl)
	return mode&^permBits | perm, minimal, nil
}

// modeOfACL returns the permission bits that an ACL shows as, and whether they
// are all there is to it.
func modeOfACL(acl []aclEntry) (perm uint32, minimal bool) {
	minimal = true
	for _, e := range acl {
		switch e.tag {
		case aclUserObj:
			perm |= uint32(e.perm) << 6
		case aclOther:
			perm |= uint32(e.perm)
		case aclUser, aclGroup, aclMask:
			minimal = false
		}
	}
	return perm | uint32(groupClass(acl).perm)<<3, minimal
}
