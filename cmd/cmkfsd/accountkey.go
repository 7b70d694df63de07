package main

import (
	"fmt"
	"net/netip"
	"strings"

	"cmkfs/hsm"
)

// keyFlags say which key to use and as whom to ask for it.
type keyFlags struct {
	KeySource string `group:"Key" placeholder:"SOURCE" help:"Microsoft.NetApp (platform-managed), Microsoft.KeyVault or PKCS11."`

	KeyURI      string `name:"key-uri" group:"Key" placeholder:"URI" help:"The key: https://VAULT/keys/NAME[/VERSION]."`
	KeyVaultURI string `name:"key-vault-uri" group:"Key" placeholder:"URI" help:"The vault: https://NAME.vault.azure.net/."`
	KeyName     string `group:"Key" placeholder:"K" help:"The key's name in the vault."`
	KeyVersion  string `group:"Key" placeholder:"V" help:"Its version (the newest)."`

	KeyVaultPermissions     string `name:"key-vault-permissions" group:"Key" enum:",encrypt-decrypt,wrap-unwrap" default:"" placeholder:"encrypt-decrypt|wrap-unwrap" help:"Which operations the identity may use (encrypt-decrypt)."`
	KeyVaultPrivateEndpoint string `name:"key-vault-private-endpoint" group:"Key" placeholder:"IP[:PORT]" help:"Reach the vault at this address only; none for wherever its name leads."`
	KeyVaultCA              string `name:"key-vault-ca" group:"Key" placeholder:"FILE" help:"Trust these certificates (PEM) too, or none."`
	KeyvaultResourceID      string `name:"keyvault-resource-id" group:"Key" placeholder:"ID" help:"The vault's resource id, for the record."`

	IdentityType         string `group:"Key" enum:",SystemAssigned,UserAssigned" default:"" placeholder:"TYPE" help:"SystemAssigned (the default with a vault) or UserAssigned."`
	UserAssignedIdentity string `group:"Key" placeholder:"ID" help:"Client, object or resource id of the identity."`
	FederatedClientID    string `name:"federated-client-id" group:"Key" placeholder:"ID" help:"Client id of the multitenant application, for a vault in another tenant; or none."`

	PKCS11URI string `name:"pkcs11-uri" group:"Key" placeholder:"URI" help:"The key: pkcs11:token=T;object=K?module-path=LIB&pin-source=file:FILE."`
}

// config returns the key that the flags ask for, nil if they do not. Flags that
// say how to reach a vault change the current key's.
func (f *keyFlags) config(current *hsm.Config) (*hsm.Config, error) {
	source, err := f.source(current)
	if err != nil || source == "" {
		return nil, err
	}
	switch source {
	case hsm.SourceKeyVault:
		return f.azureConfig(current)
	case hsm.SourcePKCS11:
		return f.pkcs11Config(current)
	}
	return &hsm.Config{Source: hsm.SourcePlatform}, nil
}

// source returns the key source that the flags mean, and refuses a mixture.
func (f *keyFlags) source(current *hsm.Config) (string, error) {
	names := f.KeyURI + f.KeyVaultURI + f.KeyName + f.KeyVersion
	reach := f.KeyVaultPermissions + f.KeyVaultPrivateEndpoint + f.KeyVaultCA + f.KeyvaultResourceID
	said := ""
	for _, known := range []string{hsm.SourcePlatform, hsm.SourceKeyVault, hsm.SourcePKCS11} {
		if strings.EqualFold(f.KeySource, known) { // az accepts Microsoft.Keyvault, too
			said = known
		}
	}
	switch vault := names+reach != ""; {
	case f.KeySource != "" && said == "":
		return "", &usageError{message: fmt.Sprintf("there is no key source %q: it is %s, %s or %s", f.KeySource, hsm.SourcePlatform, hsm.SourceKeyVault, hsm.SourcePKCS11)}
	case vault && f.PKCS11URI != "":
		return "", &usageError{message: "a key is either in a key vault or on a PKCS#11 token"}
	case vault && said != "" && said != hsm.SourceKeyVault:
		return "", &usageError{message: "the key vault flags contradict --key-source " + said}
	case f.PKCS11URI != "" && said != "" && said != hsm.SourcePKCS11:
		return "", &usageError{message: "--pkcs11-uri contradicts --key-source " + said}
	case said != "":
		return said, nil
	case f.PKCS11URI != "":
		return hsm.SourcePKCS11, nil
	case vault && names == "" && (current == nil || current.Azure == nil):
		return "", &usageError{message: "which key? Name it with --key-uri, or with --key-vault-uri and --key-name"}
	case vault:
		return hsm.SourceKeyVault, nil
	}
	return "", nil
}

func (f *keyFlags) azureConfig(current *hsm.Config) (*hsm.Config, error) {
	var a hsm.AzureConfig
	if current != nil && current.Azure != nil {
		a = *current.Azure
	}
	if err := f.nameAzureKey(&a); err != nil {
		return nil, err
	}
	if f.KeyVaultPermissions != "" {
		a.Permissions = f.KeyVaultPermissions
	}
	if f.KeyvaultResourceID != "" {
		a.KeyVaultResourceID = f.KeyvaultResourceID
	}
	if f.KeyVaultPrivateEndpoint == noValue {
		a.PrivateEndpoint = ""
	} else if f.KeyVaultPrivateEndpoint != "" {
		_, addrErr := netip.ParseAddr(f.KeyVaultPrivateEndpoint)
		withPort, portErr := netip.ParseAddrPort(f.KeyVaultPrivateEndpoint)
		if addrErr != nil && (portErr != nil || withPort.Port() == 0) {
			return nil, &usageError{message: fmt.Sprintf("%q is not an IP address with or without a port", f.KeyVaultPrivateEndpoint)}
		}
		a.PrivateEndpoint = f.KeyVaultPrivateEndpoint
	}
	if f.KeyVaultCA == noValue {
		a.CAFile = ""
	} else if f.KeyVaultCA != "" {
		var err error
		if a.CAFile, err = existingFile("--key-vault-ca", f.KeyVaultCA); err != nil {
			return nil, err
		}
	}
	return &hsm.Config{Source: hsm.SourceKeyVault, Azure: &a}, nil
}

// nameAzureKey fills in which key of which vault.
func (f *keyFlags) nameAzureKey(a *hsm.AzureConfig) (err error) {
	if f.KeyURI != "" {
		if f.KeyVaultURI+f.KeyName+f.KeyVersion != "" {
			return &usageError{message: "--key-uri names the whole key: leave out --key-vault-uri, --key-name and --key-version"}
		}
		a.VaultURI, a.KeyName, a.KeyVersion, err = hsm.ParseKeyURI(f.KeyURI)
		return err
	}
	if f.KeyVaultURI != "" {
		if a.VaultURI, err = hsm.ParseVaultURI(f.KeyVaultURI); err != nil {
			return err
		}
	}
	if f.KeyName != "" {
		a.KeyName, a.KeyVersion = f.KeyName, ""
	}
	if f.KeyVersion != "" {
		a.KeyVersion = f.KeyVersion
	}
	if a.VaultURI == "" || a.KeyName == "" {
		return &usageError{message: "which key? Name it with --key-uri, or with --key-vault-uri and --key-name"}
	}
	return hsm.CheckKeyName(a.KeyName, a.KeyVersion)
}

func (f *keyFlags) pkcs11Config(current *hsm.Config) (*hsm.Config, error) {
	uri := f.PKCS11URI
	if uri == "" && current != nil && current.PKCS11 != nil {
		uri = current.PKCS11.URI
	}
	switch {
	case uri == "":
		return nil, &usageError{message: "which key? Name it with --pkcs11-uri"}
	case !strings.HasPrefix(uri, "pkcs11:"):
		return nil, &usageError{message: fmt.Sprintf("%q is not a PKCS#11 URI: it is pkcs11:token=T;object=K?module-path=LIB&pin-source=file:FILE", uri)}
	}
	return &hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: uri}}, nil
}
