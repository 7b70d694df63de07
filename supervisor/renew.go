package supervisor

import (
	"context"

	"cmkfs/account"
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
	detail := map[string]string{}
	now, before := record.Identity, old.Identity
	if now.PrincipalID != "" {
		detail["principalId"] = now.PrincipalID
	}
	if now.PrincipalID != before.PrincipalID && before.PrincipalID != "" {
		renewed.FormerPrincipalID = before.PrincipalID
		detail["formerPrincipalId"] = before.PrincipalID
	}
	a.keyEvent(account.Event{Kind: account.AuditCredentialsRenewed, Detail: detail})
	return renewed, nil
}
