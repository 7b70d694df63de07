package azure

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"cmkfs/hsm"
)

// claims are what a token says about whose it is, as far as it says it. It is
// what the vault's administrator gives permissions to; nothing depends on it,
// so the token's signature does not matter.
type claims struct {
	Object     string `json:"oid"`
	Tenant     string `json:"tid"`
	App        string `json:"appid"` // of version 1 tokens
	Authorized string `json:"azp"`   // the same of version 2 tokens
}

func (c claims) principal() hsm.Principal {
	return hsm.Principal{ObjectID: c.Object, ClientID: cmp.Or(c.App, c.Authorized), TenantID: c.Tenant}
}

// claimsOf reads a token; what cannot be read is empty.
func claimsOf(token string) claims {
	var c claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return claims{}
	}
	return c
}

// tokenOf returns the token that a request carries.
func tokenOf(r *http.Request) string {
	if r == nil {
		return ""
	}
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// Identify asks for a token, as a key of a vault would, and says whose it is:
// Info has the fields about who asks and no others. cfg needs no vault; without
// one the account's location tells the cloud. Errors are *hsm.Error.
func Identify(ctx context.Context, cfg hsm.AzureConfig, location string) (hsm.Info, error) {
	fail := func(reason, message string, err error) (hsm.Info, error) {
		return hsm.Info{}, &hsm.Error{Op: "token", Kind: hsm.KindMisconfigured, Reason: reason, Message: message, Err: err}
	}
	pool, err := roots(cfg.CAFile)
	if err != nil {
		return fail("CAFile", msgBadCA, err)
	}
	domain := vaultDomain(cfg.VaultURI, location)
	cred, err := newCredential(cfg, domain, pool)
	if err != nil {
		return fail("Identity", msgBadIdentity, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var token azcore.AccessToken
	if cred.voucher != nil && os.Getenv("AZURE_TENANT_ID") == "" {
		// Only the vault's challenge will tell the application's tenant.
		_, err = cred.vouch(ctx)
	} else {
		token, err = cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://" + domain + "/.default"}})
	}
	if err != nil {
		return hsm.Info{}, (&key{cfg: cfg, host: domain}).classify("token", "", err)
	}
	var info hsm.Info
	cred.describe(&info, token.Token)
	return info, nil
}

// vaultDomain is the domain of a vault, which is what tokens are asked for, or,
// if there is none yet, that of the vaults of a location's cloud.
func vaultDomain(vaultURI, location string) string {
	if u, err := url.Parse(vaultURI); err == nil {
		if _, domain, ok := strings.Cut(u.Hostname(), "."); ok {
			return domain
		}
	}
	switch {
	case strings.HasPrefix(location, "china"):
		return "vault.azure.cn"
	case strings.HasPrefix(location, "usgov"), strings.HasPrefix(location, "usdod"):
		return "vault.usgovcloudapi.net"
	}
	return "vault.azure.net"
}
