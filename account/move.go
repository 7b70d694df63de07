package account

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cmkfs/hsm"
)

// The kinds of KeyMove, named as the commands that begin them.
const (
	MoveRotate     = "rotate-key"
	MoveTransition = "transition-to-cmk"
)

// KeyMove is a change of account encryption key that was begun and is not
// finished. Until it is, volumes are under old and new keys, and all of them
// are kept: whoever finds it in the record goes on where it stopped.
type KeyMove struct {
	Kind    string    `json:"kind"` // one of the Move constants
	To      string    `json:"to"`   // the account encryption key that volumes move under
	Started time.Time `json:"started"`
}

// LeaseKeys returns the account encryption keys that the account's lease rests
// on, the current one last: all that the customer's key wraps, because volumes
// may be under each of them while a rotation is not finished.
func (a *Account) LeaseKeys() []AEKRecord {
	var keys []AEKRecord
	for _, k := range a.AEKs {
		if k.Source == a.KeySource() {
			keys = append(keys, k)
		}
	}
	return keys
}

// Leaving reports whether the move under way takes volumes away from an account
// encryption key.
func (a *Account) Leaving(k AEKRecord) bool {
	if a.Move == nil || k.ID == a.Move.To {
		return false
	}
	to := a.AEK(a.Move.To)
	return a.Move.Kind == MoveTransition || to != nil && k.Source == to.Source
}

// Rotated returns the account with a new account encryption key beside the old
// ones, wrapped by the same customer's key, and with the move of all volumes
// under it begun. It stores nothing and leaves a as it is.
func (a *Account) Rotated(ctx context.Context, agent KeyAgent) (*Account, error) {
	current := a.Current()
	if current == nil {
		return nil, failf(ErrInvalid, "account %s has no key to rotate", a.Name)
	}
	k, err := newAEK(ctx, current.Key, agent)
	if err != nil {
		return nil, err
	}
	b := *a
	b.AEKs = append(slices.Clone(a.AEKs), k)
	b.Move = &KeyMove{Kind: MoveRotate, To: k.ID, Started: k.Created}
	return &b, nil
}

// InTransition returns the account with the move of all its volumes under the
// customer's key begun; a rotation that was not finished becomes part of it. It
// stores nothing and leaves a as it is. Without a customer's key it fails with
// hsm.NotConfigured.
func (a *Account) InTransition() (*Account, error) {
	current := a.Current()
	if current == nil || current.Source == hsm.SourcePlatform {
		return nil, hsm.NotConfigured
	}
	b := *a
	b.Move = &KeyMove{Kind: MoveTransition, To: current.ID, Started: time.Now().UTC().Truncate(time.Second)}
	return &b, nil
}

// Moved returns the account with the move under way finished: no volume is
// under a key that it took them away from, so these are dropped.
func (a *Account) Moved() *Account {
	b := *a
	b.AEKs, b.PreviousKeys = slices.DeleteFunc(slices.Clone(a.AEKs), a.Leaving), slices.Clone(a.PreviousKeys)
	b.Move = nil
	b.remember(a.AEKs) // an older version of the key may have wrapped what was dropped
	return &b
}

// reachOlder lets the older account encryption keys of a source, which a
// rotation has not done away with yet, be reached as the current one is.
func (a *Account) reachOlder(ctx context.Context, current AEKRecord, agent KeyAgent) error {
	for i := range a.AEKs {
		k := &a.AEKs[i]
		if k.ID == current.ID || k.Source != current.Source {
			continue
		}
		k.Key = current.Key
		if _, err := agent.Check(ctx, *k); err != nil {
			return err
		}
	}
	return nil
}

// replaceCustomerKeys puts k, nil for none, in the place of every account
// encryption key under the customer's key. A transition goes on to the new one.
func (a *Account) replaceCustomerKeys(k *AEKRecord) {
	a.AEKs = slices.DeleteFunc(a.AEKs, func(old AEKRecord) bool { return old.Source != hsm.SourcePlatform })
	if k != nil {
		a.AEKs = append(a.AEKs, *k)
	}
	switch {
	case a.Move == nil || a.AEK(a.Move.To) != nil:
	case a.Move.Kind == MoveTransition && k != nil:
		a.Move = &KeyMove{Kind: MoveTransition, To: k.ID, Started: a.Move.Started}
	default:
		a.Move = nil
	}
}

// checkMove refuses a record whose move leads nowhere.
func (a *Account) checkMove() error {
	if a.Move == nil {
		return nil
	}
	if a.Move.Kind != MoveRotate && a.Move.Kind != MoveTransition || a.AEK(a.Move.To) == nil {
		return fmt.Errorf("account %s: its %s to account encryption key %s cannot be understood", a.Name, a.Move.Kind, a.Move.To)
	}
	return nil
}
