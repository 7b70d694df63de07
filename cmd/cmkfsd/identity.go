package main

import (
	"cmp"
	"fmt"

	"cmkfs/account"
	"cmkfs/hsm"
)

// noValue is what a flag is given to take a value away.
const noValue = "none"

// identity returns the identity that the flags ask for, nil if they do not.
func (f *keyFlags) identity(current account.Identity) (*account.Identity, error) {
	if f.IdentityType == "" && f.UserAssignedIdentity == "" && f.FederatedClientID == "" {
		return nil, nil
	}
	system := account.Identity{Type: account.IdentitySystemAssigned}
	if f.IdentityType == account.IdentitySystemAssigned {
		switch {
		case f.UserAssignedIdentity != "":
			return nil, &usageError{message: "--user-assigned-identity contradicts --identity-type SystemAssigned"}
		case f.FederatedClientID != "" && f.FederatedClientID != noValue:
			return nil, &usageError{message: "--federated-client-id needs a user-assigned identity that vouches for the application"}
		}
		return &system, nil
	}
	i := account.Identity{
		Type:                 account.IdentityUserAssigned,
		UserAssignedIdentity: cmp.Or(f.UserAssignedIdentity, current.UserAssignedIdentity),
		FederatedClientID:    cmp.Or(f.FederatedClientID, current.FederatedClientID),
	}
	if i.FederatedClientID == noValue {
		i.FederatedClientID = ""
	}
	switch {
	case i.UserAssignedIdentity != "":
		return &i, nil
	case f.IdentityType != "":
		return nil, &usageError{message: "--identity-type UserAssigned needs --user-assigned-identity"}
	case i.FederatedClientID == "":
		return &system, nil // there is no federated client to take away
	}
	return nil, &usageError{message: "--federated-client-id needs --user-assigned-identity: it vouches for the application"}
}

// identityFields are an account's lines about its identity.
func identityFields(i account.Identity) []string {
	if i.Type == account.IdentityNone {
		return nil
	}
	fields := []string{
		"identity", i.Type, "user identity", i.UserAssignedIdentity, "federated client", i.FederatedClientID,
		"principal", i.PrincipalID, "client", i.ClientID, "tenant", i.TenantID,
	}
	if i.FederatedPrincipalID != "" {
		fields = append(fields, "grant to", i.FederatedPrincipalID)
	}
	if i.Problem != "" {
		fields = append(fields, "principal", "not known: "+i.Problem)
	}
	return fields
}

// warnIdentity says that an identity was saved although nobody knows it yet.
func (s *session) warnIdentity(i account.Identity) {
	if i.Problem == "" {
		return
	}
	fmt.Fprintf(s.err, "cmkfsd: warning: the identity is saved, but its principal id is not known yet: %s\n", i.Problem)
	fmt.Fprintln(s.err, "  what to do next: make its token endpoint answer and run: cmkfsd account renew-credentials")
}

type accountRenewCmd struct{ outputFlag }

// Help has the command's example.
func (*accountRenewCmd) Help() string {
	return `A new token is got, files of certificates and PINs are read again, and the key is asked for everything the account needs of it: get, encrypt, decrypt. If the identity was deleted and made anew, its new principal id is noted. A failure leaves everything as it was.

Credentials renew themselves; this is for not waiting until the next check, and for identities that were made anew.

Example:
  cmkfsd account renew-credentials`
}

// Run renews the account's credentials.
func (c *accountRenewCmd) Run(s *session) error {
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	renewed, err := client.RenewCredentials(s.ctx, name)
	if err != nil {
		_, a, aerr := s.account()
		if aerr != nil || a.Current() == nil {
			return err
		}
		return s.explainEnvironment(err, &a.Current().Key, a.Identity)
	}
	if former := renewed.FormerPrincipalID; former != "" {
		fmt.Fprintf(s.err, "cmkfsd: warning: the identity was made anew: its principal id is %s now and was %s\n", renewed.Account.Identity.PrincipalID, former)
	}
	return s.showAccount(&renewed.Account, c.Output)
}

// askedAs is the key as an identity asks for it.
func askedAs(key *hsm.Config, i account.Identity) *hsm.Config {
	if key.Azure == nil {
		return key
	}
	if i.Type == account.IdentityNone {
		i.Type = account.IdentitySystemAssigned
	}
	azure := i.Ask(*key.Azure)
	return &hsm.Config{Source: key.Source, Azure: &azure}
}
