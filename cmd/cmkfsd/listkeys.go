package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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
	return "The uri of a usable key is what account update takes as --key-uri or --pkcs11-uri. Without flags it lists the vault or token of the account's present key.\n\nExample:\n  cmkfsd account list-keys --key-vault-uri https://acme.vault.azure.net/"
}

// listedKey is one key as list-keys shows it.
type listedKey struct {
	URI string `json:"uri"` // for --key-uri or --pkcs11-uri
	hsm.Info
	Usable bool   `json:"usable"`
	Reason string `json:"reason,omitempty"` // why it is not
}

// list makes what is shown of a key of the vault or token that c names.
func list(a *account.Account, c *hsm.Config, info hsm.Info, now time.Time) listedKey {
	k := listedKey{URI: info.KeyID, Info: info, Usable: true}
	var needed []string
	switch {
	case c.PKCS11 != nil:
		_, how, _ := strings.Cut(c.PKCS11.URI, "?")
		k.URI += "?" + how
	case c.Azure != nil:
		if vault, name, _, err := hsm.ParseKeyURI(info.KeyID); err == nil {
			k.URI = vault + "keys/" + name // the newest version, whichever that is
		}
		needed = []string{"encrypt", "decrypt"}
		if c.Azure.Permissions == wrapUnwrap {
			needed = []string{"wrapKey", "unwrapKey"}
		}
	}
	if err := a.Usable(info, now); err != nil {
		k.Usable, k.Reason = false, err.Error()
		var keyErr *hsm.Error
		if errors.As(err, &keyErr) {
			k.Reason = keyErr.Sentence()
		}
		return k
	}
	for _, op := range needed {
		if len(info.Operations) > 0 && !slices.Contains(info.Operations, op) {
			k.Usable, k.Reason = false, hsm.Unusable.Because("the key itself does not permit "+op+" (key_ops)")
			break
		}
	}
	return k
}

// wrapUnwrap is the value of --key-vault-permissions that is not the default.
const wrapUnwrap = "wrap-unwrap"

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
	key = askedAs(key, a.Identity)
	agent, err := s.keyAgent(d, a, "account list-keys", "")
	if err != nil {
		return err
	}
	infos, err := agent.ListKeys(s.ctx, *key)
	if err != nil {
		return err
	}
	keys := make([]listedKey, len(infos))
	for i, info := range infos {
		keys[i] = list(a, key, info, time.Now())
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
		rows = append(rows, []string{k.URI, describeKey(k.Info), fmt.Sprint(k.Enabled), usable})
	}
	s.printTable([]string{"uri", "type", "enabled", "usable"}, rows)
	return nil
}
