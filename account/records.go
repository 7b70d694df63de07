package account

import (
	"fmt"
	"slices"
	"time"

	"cmkfs/hsm"
)

// FormatVersion is the version of the JSON files this program writes.
const FormatVersion = 1

// Account is one account as it is stored in account.json. It contains no
// secret: account encryption keys are there only as the customer's key wrapped
// them.
type Account struct {
	Version  int               `json:"version"` // of this file's format
	ID       string            `json:"id"`      // random UUID, never reused
	Name     string            `json:"name"`
	Location string            `json:"location"` // normalised, e.g. westeurope
	Tags     map[string]string `json:"tags,omitempty"`
	Created  time.Time         `json:"created"`
	Identity Identity          `json:"identity"`
	// AEKs holds every account encryption key that a volume may still need,
	// oldest first. There are several of one source only while Move, a rotation,
	// is not finished; the newest of a source is its last.
	AEKs   []AEKRecord `json:"aeks"`
	Move   *KeyMove    `json:"move,omitempty"` // under way; nil = none
	Policy Policy      `json:"policy"`
	// PreviousKeys holds the customer's keys and versions that wrapped account
	// encryption keys before, oldest first.
	PreviousKeys []PreviousKey `json:"previousKeys,omitempty"`
}

// AEKRecord is one account encryption key: 32 random bytes, stored wrapped.
type AEKRecord struct {
	ID         string      `json:"id"`         // random UUID; a volume's superblock names it
	Source     string      `json:"source"`     // one of the hsm.Source constants
	Key        hsm.Config  `json:"key"`        // the customer's key that wraps it
	Wrapped    hsm.Wrapped `json:"wrapped"`    // names the exact key version that unwraps it
	Commitment []byte      `json:"commitment"` // crypto.Commit of the AEK: what a check compares
	Created    time.Time   `json:"created"`
	KeyInfo    hsm.Info    `json:"keyInfo"` // the key's attributes when it last wrapped
}

// AEK returns the record with the given id, or nil.
func (a *Account) AEK(id string) *AEKRecord {
	for i := range a.AEKs {
		if a.AEKs[i].ID == id {
			return &a.AEKs[i]
		}
	}
	return nil
}

// AEKFor returns the newest record of a key source, or nil. New volumes of
// that source are created under it.
func (a *Account) AEKFor(source string) *AEKRecord {
	for i := range slices.Backward(a.AEKs) {
		if a.AEKs[i].Source == source {
			return &a.AEKs[i]
		}
	}
	return nil
}

// Current returns the account encryption key that the account's lease rests
// on: the newest customer-managed one, else the platform-managed one, else nil
// (an account none of whose volumes was created yet).
func (a *Account) Current() *AEKRecord {
	for i := range slices.Backward(a.AEKs) {
		if a.AEKs[i].Source != hsm.SourcePlatform {
			return &a.AEKs[i]
		}
	}
	return a.AEKFor(hsm.SourcePlatform)
}

// KeySource returns the account's key source; new volumes use it by default.
func (a *Account) KeySource() string {
	if k := a.Current(); k != nil {
		return k.Source
	}
	return hsm.SourcePlatform
}

// Validate refuses a record that this program did not write.
func (a *Account) Validate() error {
	if a.Version != FormatVersion {
		return &VersionError{File: "account.json", Have: a.Version}
	}
	if err := CheckName("account", a.Name); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, k := range a.AEKs {
		if k.ID == "" || seen[k.ID] {
			return fmt.Errorf("account %s: account encryption key id %q is empty or not unique", a.Name, k.ID)
		}
		seen[k.ID] = true
		if k.Source != k.Key.Source {
			return fmt.Errorf("account %s: account encryption key %s has two key sources", a.Name, k.ID)
		}
		if len(k.Wrapped.Ciphertext) == 0 || len(k.Commitment) == 0 {
			return fmt.Errorf("account %s: account encryption key %s is incomplete", a.Name, k.ID)
		}
	}
	if err := a.checkMove(); err != nil {
		return err
	}
	return a.Policy.Validate()
}

// VolumeRecord is what is known about a volume outside its superblock, stored
// as volume.json. The superblock alone says which keys open the volume; this
// file may be lost without losing data.
type VolumeRecord struct {
	Version   int    `json:"version"`
	Name      string `json:"name"`
	KeySource string `json:"keySource"`
	AEKID     string `json:"aekId"`
	// FormerAEKID is the account encryption key that the superblock may still
	// name while the volume's key is being moved from it to AEKID.
	FormerAEKID string `json:"formerAekId,omitempty"`

	QuotaBytes uint64    `json:"quotaBytes"` // 0 = none
	Created    time.Time `json:"created"`
	// MountPoint is where the volume is mounted, or was when the host or the
	// daemon stopped; "" after an unmount.
	MountPoint string   `json:"mountPoint,omitempty"`
	Options    []string `json:"options,omitempty"` // of that mount
}

// Needs reports whether the volume's key may be sealed under an account
// encryption key. A volume whose record was lost may need any.
func (v *VolumeRecord) Needs(aekID string) bool {
	return v.AEKID == "" || v.AEKID == aekID || v.FormerAEKID == aekID
}

// Validate refuses a record that this program did not write.
func (v *VolumeRecord) Validate() error {
	if v.Version != FormatVersion {
		return &VersionError{File: "volume.json", Have: v.Version}
	}
	return CheckName("volume", v.Name)
}
