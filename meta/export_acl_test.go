package meta

var (
	CanonicalACL = canonicalACL
	InheritACL   = inheritACL
	ChmodACL     = chmodACL
	ACLToMode    = aclToMode
)

const (
	XattrACLAccess  = xattrACLAccess
	XattrACLDefault = xattrACLDefault
)

// MakeACL encodes entries of tag, permissions and id as they are.
func MakeACL(entries ...[3]uint32) []byte {
	var acl []aclEntry
	for _, e := range entries {
		acl = append(acl, aclEntry{uint16(e[0]), uint16(e[1]), e[2]})
	}
	return marshalACL(acl)
}
