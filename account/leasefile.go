package account

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// LoadLease reads the lease that the last daemon recorded; it is zero if there
// was none.
func (d *Dir) LoadLease(account string) (Lease, error) {
	var l Lease
	path := d.accountFile(account, "lease.json")
	err := readJSON(path, &l)
	if errors.Is(err, fs.ErrNotExist) {
		return Lease{}, nil
	}
	if err != nil {
		return Lease{}, err
	}
	if !slices.Contains(States, l.State) {
		return Lease{}, fmt.Errorf("%s is damaged: there is no state %q", path, l.State)
	}
	return l, nil
}

// SaveLease replaces the recorded lease.
func (d *Dir) SaveLease(account string, l Lease) error {
	l.Version = FormatVersion
	return writeJSON(d.accountFile(account, "lease.json"), l)
}

// TransitionEvent is what the audit log says about a change of the lease.
func TransitionEvent(from, to Lease, cause LeaseEvent) Event {
	e := Event{Kind: "state-changed", From: string(from.State), To: string(to.State), Reason: cause.Text, Detail: map[string]string{"cause": string(cause.Kind)}}
	if from.State == to.State {
		e.Kind = "lease-changed"
	}
	if e.Reason == "" {
		e.Reason = to.Reason
	}
	if cause.Code != "" {
		e.Detail["code"] = cause.Code
	}
	if to.Warning != "" {
		e.Detail["warning"] = to.Warning
	}
	return e
}
