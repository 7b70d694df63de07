package stage

import (
	"fmt"
	"strings"
)

// tokenDir is where the SoftHSM token of a run lies.
const tokenDir = "token"

// MakeToken creates a SoftHSM token, makes it known to the programs started
// from now on, and returns the URI of its key.
func (s *Stage) MakeToken() (string, error) {
	out, err := s.Do(s.Rig, "create", s.Path(tokenDir))
	if err != nil {
		return "", err
	}
	uri, err := s.tokenURI(out)
	if err == nil {
		s.Say("token: %s", uri)
	}
	return uri, err
}

// AddTokenKey makes another key on the token and returns its URI.
func (s *Stage) AddTokenKey(name string) (string, error) {
	out, err := s.Do(s.Rig, "add-key", s.Path(tokenDir), "-k", name)
	if err != nil {
		return "", err
	}
	return s.tokenURI(out)
}

// tokenURI takes what softhsm-rig printed: a URI, and settings for the programs
// started from now on.
func (s *Stage) tokenURI(out string) (uri string, err error) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "PKCS11_URI="); ok {
			uri = v
		} else if strings.HasPrefix(line, "SOFTHSM2_CONF=") {
			s.AddEnv(line)
		}
	}
	if uri == "" {
		return "", fmt.Errorf("softhsm-rig printed no URI: %s", out)
	}
	return uri, nil
}

// SetToken disables the token's key ("disable") or gives it back ("restore").
func (s *Stage) SetToken(verb string) error {
	_, err := s.Do(s.Rig, verb, s.Path(tokenDir))
	return err
}
