package stage

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Vault is the emulated key vault of a run, with the key it offers.
type Vault struct {
	s                        *Stage
	keyURI, endpoint, caPath string
}

// StartVault starts the emulator and puts what a client needs, the token
// endpoint of the host's managed identity, into the environment.
func (s *Stage) StartVault() (*Vault, error) {
	dir := s.Path("vault")
	if _, err := s.Launch("vault.log", s.Emulator, "serve", "--dir", dir); err != nil {
		return nil, err
	}
	var settings string
	if err := s.Await(10*time.Second, "the emulated vault answers", func() (bool, error) {
		r, err := s.Try(5*time.Second, s.Emulator, "ctl", "env", "--dir", dir)
		settings = r.Stdout
		return err == nil && r.Code == 0, errors.Join(err, errors.New(r.Stderr))
	}); err != nil {
		return nil, err
	}
	v := &Vault{s: s}
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
			s.AddEnv(name + "=" + value)
		}
	}
	if v.keyURI == "" || v.endpoint == "" || v.caPath == "" {
		return nil, fmt.Errorf("the emulator printed %q", settings)
	}
	s.Say("vault: %s", v.keyURI)
	return v, nil
}

// KeyFlags are the flags of `account update` that name the vault's key.
func (v *Vault) KeyFlags() []string {
	return []string{"--key-uri", v.keyURI, "--key-vault-private-endpoint", v.endpoint, "--key-vault-ca", v.caPath}
}

// Control changes something in the vault: "disable" the key "cmk", "create" another.
func (v *Vault) Control(verb, key string) error {
	_, err := v.s.Do(v.s.Emulator, "ctl", verb, "--dir", v.s.Path("vault"), "demo", key)
	return err
}
