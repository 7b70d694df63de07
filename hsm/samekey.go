package hsm

// ReasonSameKey is the reason of an *Error about a key that was to replace
// another one and is the same.
const ReasonSameKey = "SameKey"

// SameKeyID reports whether two key ids, as Wrapped and Info have them, name
// the same key and the same version of it. A vault may spell its host in
// several ways.
func SameKeyID(a, b string) bool {
	if a == b {
		return true
	}
	vaultA, nameA, versionA, errA := ParseKeyURI(a)
	vaultB, nameB, versionB, errB := ParseKeyURI(b)
	return errA == nil && errB == nil && vaultA == vaultB && nameA == nameB && versionA == versionB
}
