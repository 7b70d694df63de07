package supervisor

import (
	"context"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// rekey replaces the account's customer-managed key. The account encryption keys
// stay what they are, so that nothing happens to volumes; the lease rests on the
// new key from the next check on.
func (a *acct) rekey(ctx context.Context, r api.Rekey) (*account.Account, error) {
	ctx, end, err := a.beginMove(ctx)
	if err != nil {
		return nil, err // volumes are being moved with the help of the present key
	}
	defer end()
	a.changes.Lock()
	defer a.changes.Unlock()
	record, err := a.record().Rekeyed(ctx, r.Key, keys{a.agent("")})
	if err != nil {
		return nil, err
	}
	// A crash before this leaves the old key in force, one after it the new one.
	if err := a.save(record); err != nil {
		return nil, err
	}
	return record, nil
}
