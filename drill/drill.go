package drill

import (
	"context"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

// Source is where the key of a drill's own rig is.
type Source string

// The sources.
const (
	// Vault is the emulated key vault.
	Vault Source = "vault"
	// Token is a SoftHSM token.
	Token Source = "token"
	// Any says that it does not matter; the rig has the emulated vault.
	Any Source = "any"
)

// Outcome is what programs see of an outage.
type Outcome string

// The outcomes.
const (
	// Stops: access ends, and comes back under the descriptors opened before.
	Stops Outcome = "stops"
	// GoesOn: programs notice nothing but a pause.
	GoesOn Outcome = "goes on"
	// Unmounts: the daemon is gone and access with it, until the volume is
	// mounted again.
	Unmounts Outcome = "unmounts"
)

// Drill is one rehearsed outage.
type Drill struct {
	Name    string
	Title   string // what happens, one line
	Source  Source
	Outcome Outcome
	// Own says why the drill cannot be done to a user's own volume; "" = it can.
	Own string
	// Class is what checks of the key must say meanwhile; "" = nothing special.
	Class hsm.Kind
	// Errno is what programs get; "" = ENOKEY.
	Errno string
	// Grace is how many times longer than usual the lease is; 0 = once.
	Grace int
	// Hold is how long the outage is watched; 0 = until access has ended, and a
	// moment more.
	Hold time.Duration
	// ByName has the rig reach the vault by its name instead of an address.
	ByName bool
	// Network says that the fault is between daemon and vault.
	Network bool
	// SmallDisk gives the rig a state directory that can be filled.
	SmallDisk bool
	// Recovery is the account's; "" = manual.
	Recovery string
	// Daemon says that the daemon itself is killed.
	Daemon bool
	// Revived says that the daemon dies while access is given back, so that the
	// descriptors opened before are of no use any more.
	Revived bool
	// Suspensions is how many there may be; 0 = one.
	Suspensions int

	// inject begins the outage, heal ends it. restoring is done while access is
	// being given back. nil = nothing to do.
	inject, heal, restoring func(context.Context, *scene) error
}

// Needs says what a drill's own rig needs, in one word for a table.
func (d Drill) Needs() string {
	switch d.Source {
	case Vault:
		return "emulator"
	case Token:
		return "SoftHSM"
	}
	return "any key"
}

// errno is what programs get.
func (d Drill) errno() string {
	if d.Errno != "" {
		return d.Errno
	}
	return "ENOKEY"
}

// recovery is the account's.
func (d Drill) recovery() string {
	if d.Recovery != "" {
		return d.Recovery
	}
	return account.RecoveryManual
}
