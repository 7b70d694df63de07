package main

import (
	"strings"

	"cmkfs/supervisor/api"
)

type accountRekeyCmd struct {
	KeyURI      string `name:"key-uri" placeholder:"URI" help:"The new key: https://VAULT/keys/NAME[/VERSION]; the vault is the present one."`
	KeyVaultURI string `name:"key-vault-uri" placeholder:"URI" help:"The present vault; may be left out."`
	KeyName     string `placeholder:"K" help:"The new key's name in the vault."`
	KeyVersion  string `placeholder:"V" help:"Its version, which is kept then (the newest, and newer ones are followed)."`
	PKCS11URI   string `name:"pkcs11-uri" placeholder:"URI" help:"The new key on the present token; module-path and pin-source are the present key's if it has none."`
	outputFlag
}

// Help has the command's examples.
func (*accountRekeyCmd) Help() string {
	return `Puts another key of the same vault or token into the place of the account's customer-managed key. Mounted volumes stay as they are; nothing of their data is written anew. Whatever goes wrong, the old key stays in force.

Examples:
  cmkfsd account rekey --key-name volumes-2027
  cmkfsd account rekey --pkcs11-uri 'pkcs11:token=T;object=K2'`
}

// Run replaces the key.
func (c *accountRekeyCmd) Run(s *session) error {
	d, a, err := s.account()
	if err != nil {
		return err
	}
	current, err := a.CustomerKey()
	if err != nil {
		return err
	}
	f := keyFlags{KeyURI: c.KeyURI, KeyVaultURI: c.KeyVaultURI, KeyName: c.KeyName, KeyVersion: c.KeyVersion, PKCS11URI: c.PKCS11URI}
	if token := current.Key.PKCS11; token != nil && f.PKCS11URI != "" && !strings.Contains(f.PKCS11URI, "?") {
		_, query, _ := strings.Cut(token.URI, "?")
		f.PKCS11URI += "?" + query
	}
	key, err := f.config(&current.Key)
	if err != nil {
		return err
	}
	if key == nil {
		return &usageError{message: "which key? Name it with --key-name, --key-uri or --pkcs11-uri", hint: "see what there is: cmkfsd account list-keys"}
	}
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	changed, err := client.RekeyAccount(s.ctx, name, api.Rekey{Key: *key})
	if err != nil {
		return err
	}
	inUse, err := keyInUse(d, &changed)
	if err != nil {
		return err
	}
	return s.showView(&changed, changed.View(inUse, false), c.Output)
}
