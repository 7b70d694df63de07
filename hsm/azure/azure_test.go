package azure_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/hsm/hsmtest"
)

// world is a running emulator whose identity endpoint this process uses. There
// is one for all tests, because the SDK keeps tokens for the whole process.
type world struct{ *emulator.Emulator }

var shared world

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "azure-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		e, err := emulator.Start(emulator.Config{Dir: dir})
		if err != nil {
			panic(err)
		}
		defer e.Close()
		for name, value := range e.Env() {
			os.Setenv(name, value)
		}
		shared = world{e}
		return m.Run()
	}())
}

func start(t *testing.T) world {
	t.Helper()
	t.Cleanup(func() { shared.do(t, emulator.Command{Action: emulator.FaultClear}) })
	return shared
}

func (w world) do(t *testing.T, c emulator.Command) any {
	t.Helper()
	r, err := w.Do(c)
	if err != nil {
		t.Fatalf("%s: %v", c.Action, err)
	}
	return r
}

var vaults atomic.Int64

var documented = []string{"get", "list", "encrypt", "decrypt"}

// vault makes a vault with the key "cmk" and permissions for the
// system-assigned identity, and returns the client's configuration.
func (w world) vault(t *testing.T, c emulator.Command, permissions ...string) hsm.AzureConfig {
	t.Helper()
	c.Action, c.Vault = emulator.VaultCreate, fmt.Sprintf("vault-%d", vaults.Add(1))
	uri := w.do(t, c).(string)
	w.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: c.Vault, Key: "cmk"})
	w.do(t, emulator.Command{Action: emulator.Grant, Vault: c.Vault, Identity: emulator.SystemIdentity, Permissions: permissions})
	return hsm.AzureConfig{VaultURI: uri, KeyName: "cmk", PrivateEndpoint: w.Endpoint(), CAFile: w.CA()}
}

func vaultName(cfg hsm.AzureConfig) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(cfg.VaultURI, "https://"), ".")
	return name
}

func opener(cfg hsm.AzureConfig) func(context.Context) (hsm.Key, error) {
	return func(ctx context.Context) (hsm.Key, error) { return azure.Open(ctx, cfg) }
}

func TestConformance(t *testing.T) {
	w := start(t)
	yes := true
	for name, c := range map[string]struct {
		vault       emulator.Command
		want        hsm.Info
		denied      string // reason of a missing permission
		permissions []string
		wrap        string
	}{
		"access policy": {emulator.Command{}, hsm.Info{Type: "RSA", Bits: 2048}, "ForbiddenByPolicy", documented, ""},
		"roles":         {emulator.Command{RBAC: &yes}, hsm.Info{Type: "RSA", Bits: 2048}, "ForbiddenByRbac", documented, azure.EncryptDecrypt},
		"managed HSM":   {emulator.Command{Managed: &yes}, hsm.Info{Type: "RSA-HSM", Bits: 2048}, "AccessDenied", documented, ""},
		"wrap":          {emulator.Command{}, hsm.Info{Type: "RSA", Bits: 2048}, "ForbiddenByPolicy", []string{"get", "wrapKey", "unwrapKey"}, azure.WrapUnwrap},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := w.vault(t, c.vault, c.permissions...)
			cfg.Permissions = c.wrap
			w.unusable(t, vaultName(cfg))
			hsmtest.Run(t, func(t *testing.T) hsmtest.Harness {
				t.Cleanup(func() { w.do(t, emulator.Command{Action: emulator.FaultClear}) })
				return harness(w, cfg, c.want, c.denied)
			})
		})
	}
}

// unusable adds the keys that a harness expects to be refused.
func (w world) unusable(t *testing.T, vault string) {
	t.Helper()
	no := false
	add := func(name string, c emulator.Command) {
		c.Key, c.Vault = name, vault
		if c.Action == "" {
			c.Action = emulator.KeyCreate
		}
		w.do(t, c)
	}
	add("short", emulator.Command{Bits: 1024})
	add("curve", emulator.Command{Type: "EC"})
	add("off", emulator.Command{Enabled: &no})
	add("old", emulator.Command{Expires: time.Now().Add(-time.Hour)})
	add("early", emulator.Command{NotBefore: time.Now().Add(time.Hour)})
	add("sign", emulator.Command{Ops: []string{"sign", "verify"}})
}

func harness(w world, cfg hsm.AzureConfig, want hsm.Info, denied string) hsmtest.Harness {
	vault := vaultName(cfg)
	do := func(c emulator.Command) func(*testing.T) {
		return func(t *testing.T) { c.Vault = vault; w.do(t, c) }
	}
	key := func(action string) func(*testing.T) { return do(emulator.Command{Action: action, Key: "cmk"}) }
	fault := func(f emulator.Fault) func(*testing.T) {
		f.Vault = vault
		return do(emulator.Command{Action: emulator.FaultAdd, Fault: &f})
	}
	clear := do(emulator.Command{Action: emulator.FaultClear})
	yes, no := true, false
	open, shut := do(emulator.Command{Action: emulator.Firewall}), do(emulator.Command{Action: emulator.Firewall, On: true})
	deny := func(name string, kind hsm.Kind, reason string, change func(c *hsm.AzureConfig)) hsmtest.Refused {
		bad := cfg
		change(&bad)
		return hsmtest.Refused{Name: name, Open: opener(bad), Kind: kind, Reason: reason}
	}
	return hsmtest.Harness{
		Open: opener(cfg),
		Want: want,
		Outages: []hsmtest.Outage{
			{Name: "disabled", Take: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", Enabled: &no}), Give: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", Enabled: &yes}), Kind: hsm.KindDenied, Reason: "KeyDisabled"},
			{Name: "deleted", Take: key(emulator.KeyDelete), Give: key(emulator.KeyRecover), Kind: hsm.KindDenied, Reason: "KeyNotFound"},
			{Name: "operations removed", Take: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", Ops: []string{"sign"}}), Give: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", Ops: []string{"encrypt", "decrypt", "wrapKey", "unwrapKey"}}), Kind: hsm.KindDenied, Reason: "KeyOperationForbidden"},
			{Name: "permission removed",
				Take: do(emulator.Command{Action: emulator.Revoke, Identity: emulator.SystemIdentity, Permissions: []string{"decrypt", "unwrapKey"}}),
				Give: do(emulator.Command{Action: emulator.Grant, Identity: emulator.SystemIdentity, Permissions: []string{"decrypt", "unwrapKey"}}), Kind: hsm.KindDenied, Reason: denied},
			{Name: "expired", Take: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", Expires: time.Now().Add(-time.Minute)}), Give: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", NoDates: true}), Kind: hsm.KindDenied, Reason: "KeyExpired", WrapOnly: true},
			{Name: "not yet active", Take: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", NotBefore: time.Now().Add(time.Hour)}), Give: do(emulator.Command{Action: emulator.KeySet, Key: "cmk", NoDates: true}), Kind: hsm.KindDenied, Reason: "KeyNotActive", WrapOnly: true},
			{Name: "firewall", Take: shut, Give: open, Kind: hsm.KindNetworkDenied, Reason: "ForbiddenByFirewall"},
			{Name: "public access", Take: do(emulator.Command{Action: emulator.PublicAccess}), Give: do(emulator.Command{Action: emulator.PublicAccess, On: true}), Kind: hsm.KindNetworkDenied, Reason: "ForbiddenByConnection"},
			{Name: "throttled", Take: fault(emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 30}), Give: clear, Kind: hsm.KindThrottled, Reason: "Throttled"},
			{Name: "unavailable", Take: fault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503}), Give: clear, Kind: hsm.KindUnreachable},
			{Name: "reset", Take: fault(emulator.Fault{Kind: emulator.FaultReset}), Give: clear, Kind: hsm.KindUnreachable, Reason: "Connection"},
		},
		Refused: []hsmtest.Refused{
			deny("unknown key", hsm.KindDenied, "KeyNotFound", func(c *hsm.AzureConfig) { c.KeyName = "nosuch" }),
			deny("unknown version", hsm.KindDenied, "KeyNotFound", func(c *hsm.AzureConfig) { c.KeyVersion = strings.Repeat("0", 32) }),
			deny("short", hsm.KindMisconfigured, "KeyTooShort", func(c *hsm.AzureConfig) { c.KeyName = "short" }),
			deny("not RSA", hsm.KindMisconfigured, "NotRSA", func(c *hsm.AzureConfig) { c.KeyName = "curve" }),
			deny("disabled", hsm.KindDenied, "KeyDisabled", func(c *hsm.AzureConfig) { c.KeyName = "off" }),
			deny("expired", hsm.KindDenied, "KeyExpired", func(c *hsm.AzureConfig) { c.KeyName = "old" }),
			deny("not yet active", hsm.KindDenied, "KeyNotActive", func(c *hsm.AzureConfig) { c.KeyName = "early" }),
			deny("without decrypt", hsm.KindDenied, "KeyOperationForbidden", func(c *hsm.AzureConfig) { c.KeyName = "sign" }),
			deny("unknown identity", hsm.KindDenied, "IdentityRefused", func(c *hsm.AzureConfig) {
				c.IdentityType, c.UserAssignedIdentity = azure.UserAssigned, "00000000-0000-0000-0000-000000000000"
			}),
			deny("key name", hsm.KindMisconfigured, "BadURI", func(c *hsm.AzureConfig) { c.KeyName = "a/b" }),
			deny("http", hsm.KindMisconfigured, "BadURI", func(c *hsm.AzureConfig) { c.VaultURI = "http://x.vault.azure.net" }),
			deny("host", hsm.KindMisconfigured, "BadURI", func(c *hsm.AzureConfig) { c.VaultURI = "https://vault.azure.net.example.com/" }),
			deny("private endpoint", hsm.KindMisconfigured, "PrivateEndpoint", func(c *hsm.AzureConfig) { c.PrivateEndpoint = "localhost" }),
			deny("CA file", hsm.KindMisconfigured, "CAFile", func(c *hsm.AzureConfig) { c.CAFile = "/dev/null" }),
			deny("permissions", hsm.KindMisconfigured, "Permissions", func(c *hsm.AzureConfig) { c.Permissions = "all" }),
			deny("identity type", hsm.KindMisconfigured, "Identity", func(c *hsm.AzureConfig) { c.IdentityType = "Other" }),
			deny("identity without name", hsm.KindMisconfigured, "Identity", func(c *hsm.AzureConfig) { c.IdentityType = azure.UserAssigned }),
			deny("nobody listens", hsm.KindUnreachable, "Connect", func(c *hsm.AzureConfig) { c.PrivateEndpoint = "127.0.0.1:1" }),
			deny("foreign authority", hsm.KindUnreachable, "TLS", func(c *hsm.AzureConfig) { c.CAFile = "" }),
		},
		Hang: fault(emulator.Fault{Kind: emulator.FaultBlackHole}),
	}
}

func wantError(t *testing.T, err error, kind hsm.Kind, reason string) *hsm.Error {
	t.Helper()
	var e *hsm.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Reason != reason {
		t.Fatalf("got %v, want %s/%s", err, kind, reason)
	}
	return e
}

func TestThrottled_SaysWhenToComeBack(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 17}})
	before := w.Requests("encrypt")
	_, err = k.Wrap(t.Context(), []byte("x"))
	if e := wantError(t, err, hsm.KindThrottled, "Throttled"); e.RetryAfter != 17*time.Second {
		t.Errorf("RetryAfter = %v, want 17s", e.RetryAfter)
	}
	if n := w.Requests("encrypt") - before; n != 1 {
		t.Errorf("%d requests to a vault that is throttling, want 1", n)
	}
}

// One hiccup of the service is not worth an alarm.
func TestTransientErrorIsTriedOnceMore(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultStatus, Status: 500, Count: 1}})
	if _, err := k.Wrap(t.Context(), []byte("x")); err != nil {
		t.Errorf("after one 500: %v", err)
	}
}

func TestUnwrap_UsesTheVersionThatWrapped(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	old, err := k.Wrap(t.Context(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	rotate := emulator.Command{Action: emulator.KeyRotate, Vault: vaultName(cfg), Key: "cmk"}
	newest := w.do(t, rotate).(string)
	got, err := k.Unwrap(t.Context(), old)
	if err != nil || string(got) != "secret" {
		t.Errorf("Unwrap after rotation: %q, %v", got, err)
	}
	w2, err := k.Wrap(t.Context(), []byte("secret"))
	if err != nil || w2.KeyID != newest {
		t.Errorf("Wrap after rotation used %s, want %s (%v)", w2.KeyID, newest, err)
	}
	_, _, version, err := hsm.ParseKeyURI(old.KeyID)
	if err != nil {
		t.Fatal(err)
	}
	no := false
	w.do(t, emulator.Command{Action: emulator.KeySet, Vault: vaultName(cfg), Key: "cmk", Version: version, Enabled: &no})
	_, err = k.Unwrap(t.Context(), old)
	wantError(t, err, hsm.KindDenied, "KeyDisabled")
	if _, err := k.Unwrap(t.Context(), w2); err != nil {
		t.Errorf("the newest version suffers from the old one being disabled: %v", err)
	}
}

func TestUserAssignedIdentity(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{})
	id := w.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "volumes"}).(*emulator.Identity)
	w.do(t, emulator.Command{Action: emulator.Grant, Vault: vaultName(cfg), Identity: "volumes", Permissions: documented})
	for _, name := range []string{id.ClientID, id.ResourceID, id.ObjectID, "object-id:" + id.ObjectID} {
		c := cfg
		c.IdentityType, c.UserAssignedIdentity = azure.UserAssigned, name
		k, err := azure.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Wrap(t.Context(), []byte("x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Wrap(t.Context(), []byte("x"))
	wantError(t, err, hsm.KindDenied, "AccessDenied")
}

func TestRefusedHost(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultRefuse, Vault: vaultName(cfg)}})
	_, err = k.Info(t.Context())
	if hsm.KindOf(err) != hsm.KindUnreachable || err == nil {
		t.Errorf("got %v, want unreachable", err)
	}
}

func TestNoSuchHost(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	cfg.PrivateEndpoint = ""
	cfg.VaultURI = "https://no-such-vault-6x2.vault.azure.net/"
	t.Setenv("HTTPS_PROXY", "")
	os.Unsetenv("HTTPS_PROXY")
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Info(t.Context())
	if err == nil || hsm.KindOf(err) != hsm.KindUnreachable {
		t.Errorf("got %v, want unreachable", err)
	}
}

func TestList(t *testing.T) {
	w := start(t)
	cfg := w.vault(t, emulator.Command{}, documented...)
	for i := range 30 { // more than a page
		w.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: vaultName(cfg), Key: fmt.Sprintf("k%02d", i), Type: "EC"})
	}
	keys, err := azure.List(t.Context(), cfg)
	if err != nil || len(keys) != 31 {
		t.Fatalf("List = %d keys, %v; want 31", len(keys), err)
	}
	if keys[0].Type != "RSA" || keys[0].Bits != 2048 || keys[0].Region != "westeurope" || keys[0].Usable(time.Now()) != nil || keys[1].Usable(time.Now()) == nil {
		t.Errorf("List = %+v, %+v", keys[0], keys[1])
	}
}
