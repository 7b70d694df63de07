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
