package main

import (
	"errors"
	"fmt"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

type accountListKeysCmd struct {
	keyFlags
	outputFlag
}

// Help has the command's example.
func (*accountListKeysCmd) Help() string {
	return "Without flags it lists the vault or token of the account's present key.\n\nExample:\n  cmkfsd account list-keys --key-vault-uri https://acme.vault.azure.net/"
}

// listedKey is one key as list-keys shows it.
type listedKey struct {
	hsm.Info
	Usable bool   `json:"usable"`
	Reason string `json:"reason,omitempty"` // why it is not
}

// Run lists keys.
func (c *accountListKeysCmd) Run(s *session) error {
	d, a, err := s.account()
	if err != nil {
		return err
	}
	var current *hsm.Config
	if k := a.Current(); k != nil {
		current = &k.Key
	}
	if c.KeyVaultURI != "" && c.KeyName == "" {
		c.KeyName = "any" // the vault is listed, not one key of it
	}
	key, err := c.config(current)
	if err != nil {
		return err
	}
	if key == nil {
		key = current
	}
	if key == nil || key.Source == hsm.SourcePlatform {
		return &usageError{message: "which keys? Name a vault with --key-vault-uri or a token with --pkcs11-uri"}
	}
	if key.Azure != nil {
		i := a.Identity
		key.Azure.IdentityType, key.Azure.UserAssignedIdentity, key.Azure.FederatedClientID = i.Type, i.UserAssignedIdentity, i.FederatedClientID
		if i.Type == account.IdentityNone {
			key.Azure.IdentityType = account.IdentitySystemAssigned
		}
	}
	agent, err := s.keyAgent(d)
	if err != nil {
		return err
	}
	infos, err := agent.ListKeys(s.ctx, *key)
	if err != nil {
		return err
	}
	keys := make([]listedKey, len(infos))
	for i, info := range infos {
		keys[i] = listedKey{Info: info, Usable: true}
		if err := info.Usable(time.Now()); err != nil {
			keys[i].Usable = false
			var keyErr *hsm.Error
			if errors.As(err, &keyErr) {
				keys[i].Reason = keyErr.Message
			}
		}
	}
	if c.Output == "json" {
		return s.printJSON(keys)
	}
	var rows [][]string
	for _, k := range keys {
		usable := "yes"
		if !k.Usable {
			usable = k.Reason
		}
		rows = append(rows, []string{k.KeyID, describeKey(k.Info), fmt.Sprint(k.Enabled), usable})
	}
	s.printTable([]string{"key", "type", "enabled", "usable"}, rows)
	return nil
}
