package hsm

import (
	"net/url"
	"regexp"
	"strings"
)

// vaultSuffixes are the domains of Key Vault and Managed HSM in Azure's clouds.
var vaultSuffixes = []struct {
	domain  string
	managed bool // Managed HSM
}{
	{".vault.azure.net", false},
	{".vault.azure.cn", false},
	{".vault.usgovcloudapi.net", false},
	{".vault.microsoftazure.de", false},
	{".managedhsm.azure.net", true},
	{".managedhsm.azure.cn", true},
	{".managedhsm.usgovcloudapi.net", true},
}

var (
	vaultName  = regexp.MustCompile(`^[a-z](-?[a-z0-9])+$`) // 3 to 24 characters
	keyName    = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)
	keyVersion = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// ParseVaultURI checks https://NAME.vault.azure.net (or another cloud's domain,
// or a Managed HSM's) and returns it with one slash at the end. The error is an
// *Error with the document's sentence.
func ParseVaultURI(s string) (string, error) {
	vault, path, err := splitVault(s)
	if err == nil && path != "" {
		err = uriError(s, "the path must be empty")
	}
	return vault, err
}

// ParseKeyURI takes https://NAME.vault.azure.net/keys/KEY[/VERSION] apart. The
// vault is returned as ParseVaultURI does, the version is "" if there is none.
func ParseKeyURI(s string) (vault, name, version string, err error) {
	vault, path, err := splitVault(s)
	if err != nil {
		return "", "", "", err
	}
	parts := strings.Split(path, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "keys" {
		return "", "", "", uriError(s, "it must end in /keys/NAME or /keys/NAME/VERSION")
	}
	name = parts[1]
	if len(parts) == 3 {
		version = parts[2]
		if version == "" {
			return "", "", "", uriError(s, "the version is empty")
		}
	}
	if err := CheckKeyName(name, version); err != nil {
		return "", "", "", err
	}
	return vault, name, version, nil
}

// CheckKeyName checks the name of a key in a vault and its version, which may
// be "".
func CheckKeyName(name, version string) error {
	if !keyName.MatchString(name) {
		return uriError(name, "a key's name has 1 to 127 letters, digits and hyphens")
	}
	if version != "" && !keyVersion.MatchString(version) {
		return uriError(version, "a key's version has 32 hexadecimal digits")
	}
	return nil
}

func splitVault(s string) (vault, path string, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", "", uriError(s, "it is no URI")
	}
	switch {
	case u.Scheme != "https":
		return "", "", uriError(s, "it must begin with https://")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return "", "", uriError(s, "only a host and a path are expected")
	case u.Port() != "" && u.Port() != "443":
		return "", "", uriError(s, "a vault has no other port than 443; use --key-vault-private-endpoint to reach it elsewhere")
	}
	host := strings.ToLower(u.Hostname())
	for _, suffix := range vaultSuffixes {
		name, ok := strings.CutSuffix(host, suffix.domain)
		if !ok {
			continue
		}
		if len(name) < 3 || len(name) > 24 || !vaultName.MatchString(name) {
			return "", "", uriError(s, "the vault's name is not possible")
		}
		return "https://" + host + "/", strings.Trim(u.Path, "/"), nil
	}
	return "", "", uriError(s, "the host is no Key Vault or Managed HSM")
}

func uriError(s, why string) error {
	return &Error{
		Op: "open", KeyID: s, Kind: KindMisconfigured, Condition: BadVaultURI, Reason: "BadURI", Message: BadVaultURI.Because(why),
		Hint: "a key is https://NAME.vault.azure.net/keys/KEY[/VERSION]; cmkfsd account list-keys --key-vault-uri https://NAME.vault.azure.net lists those of a vault",
	}
}
