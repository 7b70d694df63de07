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

const (
	msgBadIdentity = "The configured identity cannot be used"
	msgBadCA       = "The file of certificate authorities cannot be used"
)

// credential gets tokens, and knows what they do not say.
type credential struct {
	azcore.TokenCredential
	until   time.Time      // somebody has to renew it by then; zero = it renews itself
	voucher *hsm.Principal // who vouches for it, once a token was made; nil = nobody does
	vouch   func(context.Context) (string, error)
}

// describe fills in who asked with a token.
func (c *credential) describe(info *hsm.Info, token string) {
	who := claimsOf(token).principal()
	info.PrincipalID, info.ClientID, info.TenantID = who.ObjectID, who.ClientID, who.TenantID
	info.CredentialExpires = c.until
	if c.voucher != nil {
		info.Voucher = *c.voucher
	}
}

// newCredential chooses the identity; the package documentation has the order.
func newCredential(cfg hsm.AzureConfig, host string, pool *x509.CertPool) (*credential, error) {
	entra := azcore.ClientOptions{
		Cloud:     cloudOf(host),
		Transport: newHTTPClient(bounded{newTransport("", "", pool)}),
		Retry:     retries(),
	}
	if cfg.FederatedClientID != "" {
		if cfg.IdentityType != UserAssigned {
			return nil, errors.New("a federated client needs a user-assigned identity that vouches for it")
		}
		return federated(cfg, entra)
	}
	if environments(cfg) {
		if os.Getenv("AZURE_FEDERATED_TOKEN_FILE") != "" {
			c, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
				ClientOptions: entra, AdditionallyAllowedTenants: []string{"*"}, DisableInstanceDiscovery: ownAuthority(),
			})
			return &credential{TokenCredential: c}, err
		}
		if path := os.Getenv("AZURE_CLIENT_CERTIFICATE_PATH"); path != "" {
			return certificate(path, entra)
		}
	}
	c, err := managedIdentity(cfg)
	return &credential{TokenCredential: c}, err
}

// environments says whether the identity that the environment names may be
// meant: unless the account names another one.
func environments(cfg hsm.AzureConfig) bool {
	return cfg.UserAssignedIdentity == "" || strings.EqualFold(cfg.UserAssignedIdentity, os.Getenv("AZURE_CLIENT_ID"))
}

// managedIdentity is the identity of the host. Its endpoint is local, so no
// proxy and no private authority have to do with it.
func managedIdentity(cfg hsm.AzureConfig) (azcore.TokenCredential, error) {
	ids, err := identity(cfg)
	if err != nil {
		return nil, err
	}
	var all oneOf
	for _, id := range ids {
		c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
			ID: id,
			ClientOptions: azcore.ClientOptions{
				Transport: &http.Client{Transport: bounded{&http.Transport{ResponseHeaderTimeout: tryTimeout}}},
				Retry:     retries(),
			},
		})
		if err != nil && len(all) > 0 {
			break // this host's endpoint knows no other kind of id
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// oneOf is a credential that may have been meant in several ways: the first one
// that is not refused.
type oneOf []azcore.TokenCredential

// GetToken implements azcore.TokenCredential. Its error is that of the first.
func (o oneOf) GetToken(ctx context.Context, opt policy.TokenRequestOptions) (azcore.AccessToken, error) {
	var first error
	for _, c := range o {
		t, err := c.GetToken(ctx, opt)
		if err == nil {
			return t, nil
		}
		if first == nil {
			first = err
		}
		var auth *azidentity.AuthenticationFailedError
		if !errors.As(err, &auth) || auth.RawResponse == nil || auth.RawResponse.StatusCode != http.StatusBadRequest {
			break // the endpoint did not say that it has no such identity
		}
	}
	return azcore.AccessToken{}, first
}

// identity reads which managed identity is meant, in the order to try; nil is
// the system-assigned. An id alone can be the client's or the object's.
func identity(cfg hsm.AzureConfig) ([]azidentity.ManagedIDKind, error) {
	id := cfg.UserAssignedIdentity
	switch cfg.IdentityType {
	case "", SystemAssigned:
		if id != "" {
			return nil, errors.New("a user-assigned identity is named, but the identity type is SystemAssigned")
		}
		return []azidentity.ManagedIDKind{nil}, nil
	case UserAssigned:
	default:
		return nil, fmt.Errorf("the identity type is SystemAssigned or UserAssigned, not %q", cfg.IdentityType)
	}
	if object, ok := strings.CutPrefix(id, objectIDPrefix); ok {
		return []azidentity.ManagedIDKind{azidentity.ObjectID(object)}, nil
	}
	switch {
	case id == "":
		return nil, errors.New("the user-assigned identity is not named")
	case strings.HasPrefix(id, "/"):
		return []azidentity.ManagedIDKind{azidentity.ResourceID(id)}, nil
	}
	return []azidentity.ManagedIDKind{azidentity.ClientID(id), azidentity.ObjectID(id)}, nil
}

// certificate reads PEM or PKCS#12 anew each time a key is opened, so that a
// renewed certificate is used at once.
func certificate(path string, opt azcore.ClientOptions) (*credential, error) {
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
	return &credential{TokenCredential: c, until: expiry(certs, key)}, err
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
func federated(cfg hsm.AzureConfig, opt azcore.ClientOptions) (*credential, error) {
	voucher, err := managedIdentity(cfg)
	if err != nil {
		return nil, err
	}
	tenant := os.Getenv("AZURE_TENANT_ID")
	if tenant == "" {
		tenant = "organizations"
	}
	by := &hsm.Principal{}
	vouch := func(ctx context.Context) (string, error) {
		t, err := voucher.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"api://AzureADTokenExchange/.default"}})
		*by = claimsOf(t.Token).principal()
		return t.Token, err
	}
	c, err := azidentity.NewClientAssertionCredential(tenant, cfg.FederatedClientID, vouch,
		&azidentity.ClientAssertionCredentialOptions{
			ClientOptions: opt, AdditionallyAllowedTenants: []string{"*"}, DisableInstanceDiscovery: ownAuthority(),
		})
	return &credential{TokenCredential: c, voucher: by, vouch: vouch}, err
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
