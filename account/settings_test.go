package account_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"cmkfs/account"
)

func TestNormalizeLocation(t *testing.T) {
	for in, want := range map[string]string{"West Europe": "westeurope", "westeurope": "westeurope", "UK South": "uksouth", "eastus2": "eastus2"} {
		if got, err := account.NormalizeLocation(in); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"", "mars", "west-europe"} {
		if _, err := account.NormalizeLocation(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

func TestParseKeyURI(t *testing.T) {
	const version = "0123456789abcdef0123456789abcdef"
	for in, want := range map[string][3]string{
		"https://v.vault.azure.net/keys/k":                 {"https://v.vault.azure.net/", "k", ""},
		"https://V.vault.azure.net/keys/k/":                {"https://v.vault.azure.net/", "k", ""},
		"https://m.managedhsm.azure.net/keys/k/" + version: {"https://m.managedhsm.azure.net/", "k", version},
		"https://localhost:8443/keys/my-key":               {"https://localhost:8443/", "my-key", ""},
	} {
		vault, name, ver, err := account.ParseKeyURI(in)
		if err != nil || [3]string{vault, name, ver} != want {
			t.Errorf("%s: %q %q %q %v", in, vault, name, ver, err)
		}
	}
	for _, in := range []string{
		"", "k", "http://v/keys/k", "https:///keys/k", "https://v.vault.azure.net", "https://v/keys", "https://v/keys/",
		"https://v/secrets/s", "https://v/keys/k/1", "https://v/keys/k/" + version + "/x", "https://v/keys/k?x=1",
		"https://u:p@v/keys/k", "https://v/keys/k#f", "https://v/keys/a_b", "https://v/keys/%6b", "pkcs11:token=T", "https://v:port/keys/k",
	} {
		if _, _, _, err := account.ParseKeyURI(in); !errors.Is(err, account.ErrVaultURI) {
			t.Errorf("%q: %v", in, err)
		}
	}
	if got, err := account.ParseVaultURI("https://v.vault.azure.net"); err != nil || got != "https://v.vault.azure.net/" {
		t.Errorf("vault: %q %v", got, err)
	}
	if _, err := account.ParseVaultURI("https://v.vault.azure.net/keys/k"); !errors.Is(err, account.ErrVaultURI) {
		t.Errorf("key instead of vault: %v", err)
	}
	for in, ok := range map[string]bool{"10.0.0.4": true, "10.0.0.4:443": true, "[::1]:443": true, "::1": true, "vault": false, "": false} {
		if err := account.ParsePrivateEndpoint(in); (err == nil) != ok {
			t.Errorf("private endpoint %q: %v", in, err)
		}
	}
}

func TestPolicy_Validate(t *testing.T) {
	if err := account.DefaultPolicy().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*account.Policy){
		"no interval":   func(p *account.Policy) { p.CheckInterval = 0 },
		"no unhealthy":  func(p *account.Policy) { p.CheckIntervalUnhealthy = 0 },
		"short grace":   func(p *account.Policy) { p.OutageGrace = p.CheckInterval },
		"recovery":      func(p *account.Policy) { p.Recovery = "never" },
		"on suspend":    func(p *account.Policy) { p.OnSuspend = "" },
		"suspend errno": func(p *account.Policy) { p.SuspendErrno = "EINTR" },
	} {
		p := account.DefaultPolicy()
		change(&p)
		if p.Validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestDuration_JSON(t *testing.T) {
	b, err := json.Marshal(account.Duration(90 * time.Second))
	if err != nil || string(b) != `"1m30s"` {
		t.Fatalf("%s %v", b, err)
	}
	var d account.Duration
	if err := json.Unmarshal(b, &d); err != nil || time.Duration(d) != 90*time.Second {
		t.Fatalf("%v %v", d, err)
	}
}
