package supervisor

import (
	"context"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
)

// renewCredentials gets and uses the account's credentials anew: tokens outlive
// no key agent, so one that has none yet asks. A failure changes nothing.
func (a *acct) renewCredentials(ctx context.Context) (api.RenewedCredentials, error) {
	a.changes.Lock()
	defer a.changes.Unlock()
	agent := a.agent("").Another()
	defer agent.Close()
	old := a.record()
	record, err := old.Renewed(ctx, keys{agent})
	if err == nil {
		err = a.save(record)
	}
	if err != nil {
		a.keyEvent(account.Event{Kind: account.AuditCredentialsNotRenewed, Reason: err.Error()})
		return api.RenewedCredentials{}, err
	}
	renewed := api.RenewedCredentials{Account: *record}
	if before := old.Identity.PrincipalID; before != record.Identity.PrincipalID {
		renewed.FormerPrincipalID = before
	}
	a.keyEvent(account.CredentialsRenewedEvent(old, record))
	return renewed, nil
}

// notice keeps what successful checks have shown about who the account is. Two
// in a row must say the same: an endpoint may serve several identities in turn.
func (a *acct) notice(checked *account.Account, info hsm.Info) {
	stranger := ""
	if a.record().Noticed(info) != nil {
		stranger = info.PrincipalID
	}
	a.mu.Lock()
	again := a.mu.stranger == stranger
	a.mu.stranger = stranger
	a.mu.Unlock()
	if stranger == "" || !again || !a.changes.TryLock() {
		return // nothing new or certain, or a command changes the account: the next check tells again
	}
	defer a.changes.Unlock()
	old := a.record()
	changed := old.Noticed(info)
	if changed == nil || a.replaced(checked.LeaseKeys()...) {
		return // known by now, or about who the account was before a switch
	}
	if err := a.save(changed); err != nil {
		a.s.log.Error("the identity cannot be noted", "account", a.name, "err", err)
		return
	}
	a.keyEvent(account.IdentityChangedEvent(old, changed))
}
