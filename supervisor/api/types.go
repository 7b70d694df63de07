// Package api is what cmkfsd's commands and its daemon say to each other over
// the admin socket: HTTP with JSON bodies on a Unix socket that only the
// daemon's user can open. It has the types, the client and the errors; the
// server is in package supervisor.
package api

import (
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

// The routes. {a} is an account and {v} a volume name.
//
//	GET    /v1/status                               -> Status
//	POST   /v1/accounts                             CreateAccount -> account.Account
//	PATCH  /v1/accounts/{a}                         UpdateAccount -> account.Account
//	DELETE /v1/accounts/{a}
//	POST   /v1/accounts/{a}/renew-credentials       -> RenewedCredentials
//	POST   /v1/accounts/{a}/rekey                   Rekey -> account.Account
//	POST   /v1/accounts/{a}/key-operations          KeyOperations
//	POST   /v1/accounts/{a}/suspend                 all volumes, and the account -> AccountStatus
//	POST   /v1/accounts/{a}/restore-access          -> AccountStatus
//	POST   /v1/accounts/{a}/rotate-key              -> lines of MoveLine
//	POST   /v1/accounts/{a}/transition-to-cmk       -> lines of MoveLine
//	POST   /v1/accounts/{a}/volumes                 CreateVolume -> VolumeStatus
//	DELETE /v1/accounts/{a}/volumes/{v}
//	POST   /v1/accounts/{a}/volumes/{v}/mount       Mount -> VolumeStatus
//	POST   /v1/accounts/{a}/volumes/{v}/unmount     Unmount -> VolumeStatus
//	POST   /v1/accounts/{a}/volumes/{v}/suspend     -> VolumeStatus
//	POST   /v1/accounts/{a}/volumes/{v}/restore-access -> VolumeStatus
//
// Every request is answered when what it asks for is done. A failure has a
// status code above 399 and the body {"error": Error}, or, of an answer in lines
// that has begun, is its last line.

// Status is everything the daemon knows about its accounts now.
type Status struct {
	PID int `json:"pid,omitempty"` // of the daemon
	// KeyAgentPID is the key agent's process; it is another one after each use.
	KeyAgentPID int             `json:"keyAgentPid,omitempty"`
	Goroutines  int             `json:"goroutines,omitempty"` // of the daemon
	Version     string          `json:"version,omitempty"`
	Started     time.Time       `json:"started,omitzero"`
	Resend      bool            `json:"resend"` // the kernel repeats requests of a worker that died
	Accounts    []AccountStatus `json:"accounts"`
}

// AccountStatus is one account with its lease.
type AccountStatus struct {
	Name         string    `json:"name"`
	State        string    `json:"state"`           // online, degraded, suspending, suspended, restoring; unknown while no daemon runs
	Reason       string    `json:"reason"`          // "" while online
	Cause        string    `json:"cause,omitempty"` // of Reason: denied, network-denied, throttled, unreachable, misconfigured, operator-suspend, …
	Since        time.Time `json:"since,omitzero"`
	KeySource    string    `json:"keySource"`
	KeyID        string    `json:"keyId"`
	LastCheck    time.Time `json:"lastCheck,omitzero"`
	LastSuccess  time.Time `json:"lastSuccess,omitzero"`
	LeaseExpires time.Time `json:"leaseExpires,omitzero"`
	NextAction   string    `json:"nextAction"`        // what happens or has to be done next
	Warning      string    `json:"warning,omitempty"` // e.g. the key has expired
	// KeyExpires and CredentialExpires, as of the last success; zero = never.
	KeyExpires        time.Time `json:"keyExpires,omitzero"`
	CredentialExpires time.Time `json:"credentialExpires,omitzero"`
	// Unfinished is a rotation or transition that has begun: the daemon goes on
	// with it by itself.
	Unfinished *account.KeyMove `json:"unfinished,omitempty"`
	Volumes    []VolumeStatus   `json:"volumes"`
}

// The states of a volume.
const (
	VolumeUnmounted  = "unmounted"
	VolumeOnline     = "online"
	VolumeSuspending = "suspending"
	VolumeSuspended  = "suspended"
	VolumeRestoring  = "restoring"
)

// VolumeStatus is one volume.
type VolumeStatus struct {
	Name       string `json:"name"`
	State      string `json:"state"`
	Reason     string `json:"reason,omitempty"` // why it is not online although it is mounted
	MountPoint string `json:"mountPoint"`       // "" = not mounted
	KeySource  string `json:"keySource"`
	QuotaBytes uint64 `json:"quotaBytes"` // 0 = none
	UsedBytes  uint64 `json:"usedBytes"`  // 0 while nobody serves the volume
	Files      uint64 `json:"files"`
	WorkerPID  int    `json:"workerPid,omitempty"`
	Goroutines int    `json:"goroutines,omitempty"` // of the worker, while it serves
	Restarts   int    `json:"restarts,omitempty"`   // workers that died since the mount
}

// CreateAccount asks for a new account with a platform-managed key.
type CreateAccount struct {
	Name     string            `json:"name"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
}

// UpdateAccount changes an account; what is nil stays as it is. A key that is
// set is examined first, and a failure changes nothing.
type UpdateAccount = account.Change

// RenewedCredentials is an account whose credentials were got and used anew.
type RenewedCredentials struct {
	Account account.Account `json:"account"`
	// FormerPrincipalID is what the identity's object id was before, if it is
	// another one now: then the identity was made anew.
	FormerPrincipalID string `json:"formerPrincipalId,omitempty"`
}

// KeyOperations is what a command has asked of an account's key by itself, for
// the audit log.
type KeyOperations = account.KeyCall

// Rekey asks for another customer's key of the same vault or token in the place
// of the account's.
type Rekey struct {
	Key hsm.Config `json:"key"` // of it only which key it is counts
}

// CreateVolume asks for a new, empty volume.
type CreateVolume struct {
	Name       string `json:"name"`
	QuotaBytes uint64 `json:"quotaBytes,omitempty"` // 0 = none
	KeySource  string `json:"keySource,omitempty"`  // "" = the account's
}

// Values of Mount.WhenLocked.
const (
	WhenLockedFail      = "fail"      // the mount fails if the key is not available
	WhenLockedSuspended = "suspended" // the volume is mounted suspended
)

// Mount asks for a volume at a mount point, an absolute path of the daemon's
// mount namespace.
type Mount struct {
	MountPoint string   `json:"mountPoint"`
	Options    []string `json:"options,omitempty"` // as after -o
	WhenLocked string   `json:"whenLocked,omitempty"`
	// AcceptOlder makes a copy of the volume acceptable that is behind the
	// volume as it was.
	AcceptOlder bool `json:"acceptOlder,omitempty"`
}

// Unmount asks for the end of a mount.
type Unmount struct {
	// Lazy detaches the mount although files are open in it; the volume stays
	// served until the last of them is closed.
	Lazy bool `json:"lazy,omitempty"`
}
