package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// vault is the emulated key vault of the story, with the key it offers.
type vault struct {
	d                        *demo
	keyURI, endpoint, caPath string
}

// startVault starts the emulator and puts what a client needs, the token
// endpoint of the host's managed identity, into the environment.
func (d *demo) startVault() (*vault, error) {
	dir := d.Path("vault")
	if _, err := d.Launch("vault.log", d.Emulator, "serve", "--dir", dir); err != nil {
		return nil, err
	}
	var settings string
	if err := d.Await(10*time.Second, "the emulated vault answers", func() (bool, error) {
		r, err := d.Try(5*time.Second, d.Emulator, "ctl", "env", "--dir", dir)
		settings = r.Stdout
		return err == nil && r.Code == 0, errors.Join(err, errors.New(r.Stderr))
	}); err != nil {
		return nil, err
	}
	v := &vault{d: d}
	for line := range strings.Lines(settings) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "KEYVAULT_EMULATOR_KEY_URI":
			v.keyURI = value
		case "KEYVAULT_EMULATOR_ENDPOINT":
			v.endpoint = value
		case "KEYVAULT_EMULATOR_CA":
			v.caPath = value
		default:
			d.AddEnv(name + "=" + value)
		}
	}
	if v.keyURI == "" || v.endpoint == "" || v.caPath == "" {
		return nil, fmt.Errorf("the emulator printed %q", settings)
	}
	d.Say("vault: %s", v.keyURI)
	return v, nil
}

// keyFlags are the flags of `account update` that name the vault's key.
func (v *vault) keyFlags() []string {
	return []string{"--key-uri", v.keyURI, "--key-vault-private-endpoint", v.endpoint, "--key-vault-ca", v.caPath}
}

// setKey enables or disables the key, as its owner does.
func (v *vault) setKey(verb string) error {
	_, err := v.d.Do(v.d.Emulator, "ctl", verb, "--dir", v.d.Path("vault"), "demo", "cmk")
	return err
}
