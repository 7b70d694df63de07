package azure

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"cmkfs/hsm"
)

// The identity types, named as the account's identity.type is.
const (
	SystemAssigned = "SystemAssigned"
	UserAssigned   = "UserAssigned"
)

const objectIDPrefix = "object-id:"

// credential chooses the identity; the package documentation has the order.
func credential(cfg hsm.AzureConfig, host string, pool *x509.CertPool) (azcore.TokenCredential, error) {
	entra := azcore.ClientOptions{
		Cloud:     cloudOf(host),
		Transport: newHTTPClient(newTransport("", "", pool)),
		Retry:     retries(),
	}
	if cfg.FederatedClientID != "" {
		if cfg.IdentityType != UserAssigned {
			return nil, errors.New("a federated client needs a user-assigned identity that vouches for it")
		}
		return federated(cfg, entra)
	}
	if os.Getenv("AZURE_FEDERATED_TOKEN_FILE") != "" {
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: entra, AdditionallyAllowedTenants: []string{"*"}, DisableInstanceDiscovery: ownAuthority(),
		})
	}
	if path := os.Getenv("AZURE_CLIENT_CERTIFICATE_PATH"); path != "" {
		return certificate(path, entra)
	}
	return managedIdentity(cfg)
}

// expiring is a credential that somebody has to renew.
type expiring struct {
	azcore.TokenCredential
	until time.Time
}

// managedIdentity is the identity of the host. Its endpoint is local, so no
// proxy and no private authority have to do with it.
func managedIdentity(cfg hsm.AzureConfig) (*azidentity.ManagedIdentityCredential, error) {
	id, err := identity(cfg)
	if err != nil {
		return nil, err
	}
	return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
		ID: id,
		ClientOptions: azcore.ClientOptions{
			Transport: &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: tryTimeout}},
			Retry:     retries(),
		},
	})
}

// identity reads which managed identity is meant; nil is the system-assigned.
func identity(cfg hsm.AzureConfig) (azidentity.ManagedIDKind, error) {
	id := cfg.UserAssignedIdentity
	switch cfg.IdentityType {
	case "", SystemAssigned:
		if id != "" {
			return nil, errors.New("a user-assigned identity is named, but the identity type is SystemAssigned")
		}
		return nil, nil
	case UserAssigned:
	default:
		return nil, fmt.Errorf("the identity type is SystemAssigned or UserAssigned, not %q", cfg.IdentityType)
	}
	if object, ok := strings.CutPrefix(id, objectIDPrefix); ok {
		return azidentity.ObjectID(object), nil
	}
	switch {
	case id == "":
		return nil, errors.New("the user-assigned identity is not named")
	case strings.HasPrefix(id, "/"):
		return azidentity.ResourceID(id), nil
	}
	return azidentity.ClientID(id), nil
}

// certificate reads PEM or PKCS#12 anew each time a key is opened, so that a
// renewed certificate is used at once.
func certificate(path string, opt azcore.ClientOptions) (azcore.TokenCredential, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	certs, key, err := azidentity.ParseCertificates(b, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c, err := azidentity.NewClientCertificateCredential(os.Getenv("AZURE_TENANT_ID"), os.Getenv("AZURE_CLIENT_ID"), certs, key,
		&azidentity.ClientCertificateCredentialOptions{
			ClientOptions: opt, AdditionallyAllowedTenants: []string{"*"}, DisableInstanceDiscovery: ownAuthority(),
			SendCertificateChain: true,
		})
	return expiring{c, expiry(certs, key)}, err
}

// expiry is the end of the certificate that belongs to the key; the file may
// have those of its authorities, too, in any order.
func expiry(certs []*x509.Certificate, key crypto.PrivateKey) time.Time {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return time.Time{}
	}
	for _, c := range certs {
		if public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(signer.Public()) {
			return c.NotAfter
		}
	}
	return time.Time{}
}

// federated is an application of the vault's tenant that trusts our
// user-assigned identity. The vault's challenge names the tenant.
func federated(cfg hsm.AzureConfig, opt azcore.ClientOptions) (azcore.TokenCredential, error) {
	voucher, err := managedIdentity(cfg)
	if err != nil {
		return nil, err
	}
	tenant := os.Getenv("AZURE_TENANT_ID")
	if tenant == "" {
		tenant = "organizations"
	}
	assertion := func(ctx context.Context) (string, error) {
		t, err := voucher.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"api://AzureADTokenExchange/.default"}})
		return t.Token, err
	}
	return azidentity.NewClientAssertionCredential(tenant, cfg.FederatedClientID, assertion,
		&azidentity.ClientAssertionCredentialOptions{
			ClientOptions: opt, AdditionallyAllowedTenants: []string{"*"}, DisableInstanceDiscovery: ownAuthority(),
		})
}

// ownAuthority says whether the environment names an authority, which then is
// not looked up at Microsoft's: a private cloud may not reach it.
func ownAuthority() bool { return os.Getenv("AZURE_AUTHORITY_HOST") != "" }

// cloudOf is the authority of the vault's cloud, unless the environment names
// another.
func cloudOf(host string) cloud.Configuration {
	switch {
	case ownAuthority():
		return cloud.Configuration{} // the SDK reads the variable
	case strings.HasSuffix(host, ".azure.cn"):
		return cloud.AzureChina
	case strings.HasSuffix(host, ".usgovcloudapi.net"):
		return cloud.AzureGovernment
	}
	return cloud.AzurePublic
}
