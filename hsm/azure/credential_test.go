package azure_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure"
	"cmkfs/hsm/azure/emulator"
)

// application adds an identity that may use the key and lets the environment
// name the emulator's authority.
func application(t *testing.T, w world, name string) (*emulator.Identity, hsm.AzureConfig) {
	t.Helper()
	cfg := w.vault(t, emulator.Command{})
	id := w.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: name}).(*emulator.Identity)
	w.do(t, emulator.Command{Action: emulator.Grant, Vault: vaultName(cfg), Identity: name, Permissions: documented})
	t.Setenv("AZURE_AUTHORITY_HOST", w.Env()["KEYVAULT_EMULATOR_AUTHORITY"])
	t.Setenv("AZURE_TENANT_ID", w.Env()["KEYVAULT_EMULATOR_TENANT"])
	t.Setenv("AZURE_CLIENT_ID", id.ClientID)
	return id, cfg
}

// wraps tries the key, and that the authority was asked.
func wraps(t *testing.T, w world, cfg hsm.AzureConfig) hsm.Info {
	t.Helper()
	before := w.Requests("authority")
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := k.Wrap(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if w.Requests("authority") == before {
		t.Error("the token came from somewhere else")
	}
	info, err := k.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.TenantID != w.Env()["KEYVAULT_EMULATOR_TENANT"] {
		t.Errorf("tenant %q", info.TenantID)
	}
	return info
}

func TestWorkloadIdentity(t *testing.T) {
	w := start(t)
	_, cfg := application(t, w, "workload")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("assertion"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", file)
	wraps(t, w, cfg)
}

func TestClientCertificate(t *testing.T) {
	w := start(t)
	id, cfg := application(t, w, "certificate")
	file := filepath.Join(t.TempDir(), "certificate.pem")
	t.Setenv("AZURE_CLIENT_CERTIFICATE_PATH", file)
	_, err := azure.Open(t.Context(), cfg)
	wantError(t, err, hsm.KindMisconfigured, "Identity")

	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	writeCertificate(t, file, end)
	info := wraps(t, w, cfg)
	if !info.CredentialExpires.Equal(end) || info.ClientID != id.ClientID || info.PrincipalID != id.ObjectID {
		t.Errorf("Info = %+v, want %s until %v", info, id.ClientID, end)
	}

	// A renewed certificate is used by the next key that is opened.
	end = end.Add(24 * time.Hour)
	writeCertificate(t, file, end)
	if info := wraps(t, w, cfg); !info.CredentialExpires.Equal(end) {
		t.Errorf("after renewal: %v, want %v", info.CredentialExpires, end)
	}
}

// writeCertificate replaces file by a new key and its certificate, after one
// that is somebody else's.
func writeCertificate(t *testing.T, file string, end time.Time) {
	t.Helper()
	var content []byte
	add := func(kind string, b []byte) {
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	certificate := func(end time.Time) *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: end}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		add("CERTIFICATE", der)
		return key
	}
	certificate(end.Add(10 * 365 * 24 * time.Hour))
	private, err := x509.MarshalPKCS8PrivateKey(certificate(end))
	if err != nil {
		t.Fatal(err)
	}
	add("PRIVATE KEY", private)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFederatedClient(t *testing.T) {
	w := start(t)
	id, cfg := application(t, w, "application")
	voucher := w.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "voucher"}).(*emulator.Identity)
	t.Setenv("AZURE_TENANT_ID", "") // the challenge names it
	cfg.IdentityType, cfg.UserAssignedIdentity, cfg.FederatedClientID = azure.UserAssigned, voucher.ResourceID, id.ClientID
	wraps(t, w, cfg)

	cfg.IdentityType, cfg.UserAssignedIdentity = azure.SystemAssigned, ""
	_, err := azure.Open(t.Context(), cfg)
	wantError(t, err, hsm.KindMisconfigured, "Identity")
}

// Both the application, which the vault knows, and the identity that vouches for
// it are told apart.
func TestFederatedClient_Voucher(t *testing.T) {
	w := start(t)
	id, cfg := application(t, w, "told-apart")
	voucher := w.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "vouches"}).(*emulator.Identity)
	cfg.IdentityType, cfg.UserAssignedIdentity, cfg.FederatedClientID = azure.UserAssigned, voucher.ClientID, id.ClientID
	info := wraps(t, w, cfg)
	own := hsm.Principal{ObjectID: voucher.ObjectID, ClientID: voucher.ClientID, TenantID: info.TenantID}
	if info.PrincipalID != id.ObjectID || info.ClientID != id.ClientID || info.Voucher != own {
		t.Errorf("Info = %+v, want %+v and %+v", info, id, own)
	}
	// Without a vault nobody has named the application's tenant yet.
	t.Setenv("AZURE_TENANT_ID", "")
	cfg.VaultURI = ""
	info, err := azure.Identify(t.Context(), cfg, "westeurope")
	if err != nil || info.Voucher != own || info.PrincipalID != "" {
		t.Errorf("Identify = %+v, %v", info, err)
	}
}

// A user-assigned identity that the account names goes before the credentials
// of the environment, unless it is theirs.
func TestNamedIdentityBeforeTheEnvironments(t *testing.T) {
	w := start(t)
	app, cfg := application(t, w, "of-the-environment")
	file := filepath.Join(t.TempDir(), "certificate.pem")
	writeCertificate(t, file, time.Now().Add(time.Hour))
	t.Setenv("AZURE_CLIENT_CERTIFICATE_PATH", file)
	named := w.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "of-the-account"}).(*emulator.Identity)
	cfg.IdentityType = azure.UserAssigned
	for _, tc := range []struct{ id, want string }{
		{named.ClientID, named.ObjectID}, {named.ResourceID, named.ObjectID}, {named.ObjectID, named.ObjectID}, {app.ClientID, app.ObjectID},
	} {
		cfg.UserAssignedIdentity = tc.id
		info, err := azure.Identify(t.Context(), cfg, "westeurope")
		if err != nil || info.PrincipalID != tc.want {
			t.Errorf("%s: %+v, %v; want %s", tc.id, info, err, tc.want)
		}
		if (tc.want == app.ObjectID) == info.CredentialExpires.IsZero() {
			t.Errorf("%s: the credential expires at %v", tc.id, info.CredentialExpires)
		}
	}
}

func TestIdentify(t *testing.T) {
	w := start(t)
	info, err := azure.Identify(t.Context(), hsm.AzureConfig{}, "westeurope")
	if err != nil || info.PrincipalID == "" || info.ClientID == "" || info.TenantID != w.Env()["KEYVAULT_EMULATOR_TENANT"] {
		t.Errorf("Identify = %+v, %v", info, err)
	}
	nobody := hsm.AzureConfig{IdentityType: azure.UserAssigned, UserAssignedIdentity: "99999999-0000-0000-0000-000000000000"}
	_, err = azure.Identify(t.Context(), nobody, "westeurope")
	wantError(t, err, hsm.KindDenied, "IdentityRefused")
	nobody.UserAssignedIdentity = ""
	_, err = azure.Identify(t.Context(), nobody, "westeurope")
	wantError(t, err, hsm.KindMisconfigured, "Identity")
}

// Tokens are for the vault's cloud, and without a vault for the account's.
func TestIdentify_Audience(t *testing.T) {
	var resource string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resource = r.URL.Query().Get("resource")
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer s.Close()
	t.Setenv("IDENTITY_ENDPOINT", s.URL)
	for _, tc := range []struct{ vault, location, want string }{
		{"", "westeurope", "https://vault.azure.net"},
		{"", "usgovvirginia", "https://vault.usgovcloudapi.net"},
		{"", "chinanorth3", "https://vault.azure.cn"},
		{"https://hsm.managedhsm.azure.net/", "westeurope", "https://managedhsm.azure.net"},
		{"https://kv.vault.azure.cn/", "westeurope", "https://vault.azure.cn"},
		{"https://kv.managedhsm.usgovcloudapi.net/", "westeurope", "https://managedhsm.usgovcloudapi.net"},
	} {
		cfg := hsm.AzureConfig{VaultURI: tc.vault, IdentityType: azure.UserAssigned, UserAssignedIdentity: "audience"}
		_, err := azure.Identify(t.Context(), cfg, tc.location)
		wantError(t, err, hsm.KindDenied, "IdentityRefused")
		if resource != tc.want {
			t.Errorf("%s %s: a token for %q was asked for, want %q", tc.vault, tc.location, resource, tc.want)
		}
	}
}

func TestUnknownApplication(t *testing.T) {
	w := start(t)
	_, cfg := application(t, w, "gone")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("assertion"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", file)
	w.do(t, emulator.Command{Action: emulator.IdentityClear, Identity: "gone"})
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Wrap(t.Context(), []byte("x"))
	wantError(t, err, hsm.KindDenied, "IdentityRefused")
}

// A host without any identity endpoint: IMDS's address does not answer here.
func TestNoIdentityEndpoint(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	cfg.IdentityType, cfg.UserAssignedIdentity = azure.UserAssigned, "11111111-1111-1111-1111-111111111111" // not in the SDK's cache
	t.Setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token")
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, err = k.Info(t.Context())
	if e := wantError(t, err, hsm.KindUnreachable, "IdentityUnavailable"); e.Op != "token" {
		t.Errorf("operation %q, want token", e.Op)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}

// A token file that is gone is not the network's fault, but an outage as well:
// it may just be replaced.
func TestWorkloadIdentity_NoFile(t *testing.T) {
	w := start(t)
	_, cfg := application(t, w, "fileless")
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", filepath.Join(t.TempDir(), "none"))
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	_, err = k.Info(t.Context())
	if e := wantError(t, err, hsm.KindUnreachable, "IdentityFile"); e.Op != "token" || e.Condition != hsm.Unusable {
		t.Errorf("%#v", e)
	}
}

// A vault that is there and silent is told from one that refuses, and by which
// address it was tried.
func TestSilentVault_Timeout(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	w.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultBlackHole, Vault: vaultName(cfg)}})
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = k.Info(ctx)
	if e := wantError(t, err, hsm.KindUnreachable, "Timeout"); e.Message != hsm.NoConnection.Because("there is no answer from the private endpoint "+w.Endpoint()+" in time") {
		t.Errorf("%s", e.Message)
	}
}

// An endpoint for tokens that is in trouble costs seconds, not the minute and
// more that the SDK would spend on it, whatever the trouble is.
func TestTokenEndpoint_Bounded(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{})
	for name, tc := range map[string]struct {
		fault  emulator.Fault
		kind   hsm.Kind
		reason string
	}{
		"not found":   {emulator.Fault{Kind: emulator.FaultStatus, Status: 404}, hsm.KindUnreachable, "IdentityUnavailable"},
		"gone":        {emulator.Fault{Kind: emulator.FaultStatus, Status: 410}, hsm.KindUnreachable, "IdentityUnavailable"},
		"throttled":   {emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 120}, hsm.KindThrottled, "Throttled"},
		"failing":     {emulator.Fault{Kind: emulator.FaultStatus, Status: 500}, hsm.KindUnreachable, "IdentityUnavailable"},
		"unavailable": {emulator.Fault{Kind: emulator.FaultStatus, Status: 503, RetryAfter: 120}, hsm.KindUnreachable, "IdentityUnavailable"},
		"reset":       {emulator.Fault{Kind: emulator.FaultReset}, hsm.KindUnreachable, "IdentityUnavailable"},
		"silent":      {emulator.Fault{Kind: emulator.FaultBlackHole}, hsm.KindUnreachable, "IdentityUnavailable"},
		"garbage":     {emulator.Fault{Kind: emulator.FaultGarbage}, hsm.KindUnreachable, "IdentityUnavailable"},
		"truncated":   {emulator.Fault{Kind: emulator.FaultTruncate}, hsm.KindUnreachable, "IdentityUnavailable"},
		"dripping":    {emulator.Fault{Kind: emulator.FaultDrip}, hsm.KindUnreachable, "IdentityUnavailable"},
		"huge":        {emulator.Fault{Kind: emulator.FaultHuge}, hsm.KindUnreachable, "IdentityUnavailable"},
		"refusing":    {emulator.Fault{Kind: emulator.FaultStatus, Status: 400}, hsm.KindDenied, "IdentityRefused"},
		"forbidding":  {emulator.Fault{Kind: emulator.FaultStatus, Status: 403}, hsm.KindDenied, "IdentityRefused"},
	} {
		t.Run(name, func(t *testing.T) {
			// One that the SDK has no token of in its cache.
			id := w.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "bounded-" + name}).(*emulator.Identity)
			tc.fault.Op = "token"
			w.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &tc.fault})
			defer w.do(t, emulator.Command{Action: emulator.FaultClear})
			c := cfg
			c.IdentityType, c.UserAssignedIdentity = azure.UserAssigned, id.ClientID
			k, err := azure.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			begin := time.Now()
			_, err = k.Info(t.Context())
			var e *hsm.Error
			if !errors.As(err, &e) || e.Kind != tc.kind || e.Reason != tc.reason || e.Op != "token" || e.RetryAfter != time.Duration(tc.fault.RetryAfter)*time.Second {
				t.Errorf("got %#v, want %s/%s", err, tc.kind, tc.reason)
			}
			if d := time.Since(begin); d > 30*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}
