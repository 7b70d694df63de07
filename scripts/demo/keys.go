package main

import (
	"fmt"
	"strings"
)

// makeToken creates the SoftHSM token and returns the URI of its key.
func (d *demo) makeToken() (string, error) {
	out, err := d.Do(d.Rig, "create", d.Path("token"))
	if err != nil {
		return "", err
	}
	var uri string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "PKCS11_URI="); ok {
			uri = v
		} else if strings.HasPrefix(line, "SOFTHSM2_CONF=") {
			d.AddEnv(line)
		}
	}
	if uri == "" {
		return "", fmt.Errorf("softhsm-rig printed no URI: %s", out)
	}
	d.Say("token: %s", uri)
	return uri, nil
}

// setToken disables the token's key or restores it.
func (d *demo) setToken(verb string) error {
	_, err := d.Do(d.Rig, verb, d.Path("token"))
	return err
}
