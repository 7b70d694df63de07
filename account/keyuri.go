package account

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// ErrVaultURI reports a malformed vault or key URI.
var ErrVaultURI = errors.New("malformed vault or key URI")

// invalidURI is what the service's documentation says about it.
const invalidURI = "Key Vault URI is invalid: "

var (
	keyNameRE    = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)
	keyVersionRE = regexp.MustCompile(`^[0-9A-Za-z]{32}$`)
)

// ParseVaultURI checks https://HOST[:PORT][/] and returns it with the closing
// slash.
func ParseVaultURI(s string) (string, error) {
	u, err := parseHTTPS(s)
	if err != nil {
		return "", err
	}
	if u.Path != "" && u.Path != "/" {
		return "", failf(ErrVaultURI, invalidURI+"%q has a path; a vault is https://NAME.vault.azure.net/", s)
	}
	u.Path = "/"
	return u.String(), nil
}

// ParseKeyURI takes https://HOST/keys/NAME[/VERSION] apart.
func ParseKeyURI(s string) (vaultURI, name, version string, err error) {
	u, err := parseHTTPS(s)
	if err != nil {
		return "", "", "", err
	}
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/"), "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "keys" {
		return "", "", "", failf(ErrVaultURI, invalidURI+"%q is not https://VAULT/keys/NAME or https://VAULT/keys/NAME/VERSION", s)
	}
	if len(parts) == 3 {
		version = parts[2]
	}
	if err := CheckKeyName(parts[1], version); err != nil {
		return "", "", "", err
	}
	u.Path = "/"
	return u.String(), parts[1], version, nil
}

// CheckKeyName refuses names and versions no vault has; version may be "".
func CheckKeyName(name, version string) error {
	if !keyNameRE.MatchString(name) {
		return failf(ErrVaultURI, invalidURI+"%q is not a key name (1 to 127 letters, digits and dashes)", name)
	}
	if version != "" && !keyVersionRE.MatchString(version) {
		return failf(ErrVaultURI, invalidURI+"%q is not a key version (32 letters and digits)", version)
	}
	return nil
}

func parseHTTPS(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, failf(ErrVaultURI, invalidURI+"%q cannot be parsed", s)
	case u.Scheme != "https":
		return nil, failf(ErrVaultURI, invalidURI+"%q does not begin with https://", s)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, failf(ErrVaultURI, invalidURI+"%q has something else than a host and a path", s)
	case strings.Contains(u.EscapedPath(), "%"):
		return nil, failf(ErrVaultURI, invalidURI+"%q has an escaped path", s)
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// ParsePrivateEndpoint checks IP or IP:PORT, the address at which a vault's
// name is reached instead of what DNS says.
func ParsePrivateEndpoint(s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	if _, err := netip.ParseAddrPort(s); err == nil {
		return nil
	}
	return failf(ErrVaultURI, "%q is not an IP address with or without a port", s)
}
