package hsm_test

import (
	"strings"
	"testing"

	"cmkfs/hsm"
)

func TestParseKeyURI(t *testing.T) {
	version := strings.Repeat("0a", 16)
	for uri, want := range map[string][3]string{
		"https://demo.vault.azure.net/keys/cmk":                         {"https://demo.vault.azure.net/", "cmk", ""},
		"https://Demo.Vault.Azure.NET:443/keys/cmk/":                    {"https://demo.vault.azure.net/", "cmk", ""},
		"https://demo.vault.azure.net/keys/c-1/" + version:              {"https://demo.vault.azure.net/", "c-1", version},
		"https://a-hsm.managedhsm.azure.net/keys/k":                     {"https://a-hsm.managedhsm.azure.net/", "k", ""},
		"https://gov.vault.usgovcloudapi.net/keys/k":                    {"https://gov.vault.usgovcloudapi.net/", "k", ""},
		"https://cn1.managedhsm.azure.cn/keys/k":                        {"https://cn1.managedhsm.azure.cn/", "k", ""},
		"https://abcdefghijklmnopqrstuvwx.vault.azure.net/keys/k":       {"https://abcdefghijklmnopqrstuvwx.vault.azure.net/", "k", ""},
		"https://demo.vault.azure.net/keys/" + strings.Repeat("k", 127): {"https://demo.vault.azure.net/", strings.Repeat("k", 127), ""},
	} {
		vault, name, ver, err := hsm.ParseKeyURI(uri)
		if got := [3]string{vault, name, ver}; err != nil || got != want {
			t.Errorf("ParseKeyURI(%q) = %v, %v; want %v", uri, got, err, want)
		}
	}
	for _, uri := range []string{
		"", "demo", "https://", "https://demo.vault.azure.net", "https://demo.vault.azure.net/keys", "https://demo.vault.azure.net/keys//",
		"http://demo.vault.azure.net/keys/k", "https://demo.vault.azure.net:8443/keys/k", "https://u:p@demo.vault.azure.net/keys/k",
		"https://demo.vault.azure.net/keys/k?x=1", "https://demo.vault.azure.net/keys/k#f", "https://demo.vault.azure.net/secrets/k",
		"https://demo.vault.azure.net/keys/k/123", "https://demo.vault.azure.net/keys/k/" + strings.Repeat("0", 32) + "/x",
		"https://demo.vault.azure.net/keys/k_1", "https://demo.vault.azure.net/keys/" + strings.Repeat("k", 128),
		"https://demo.vault.azure.net.example.com/keys/k", "https://vault.azure.net/keys/k", "https://a.b.vault.azure.net/keys/k",
		"https://ab.vault.azure.net/keys/k", "https://a--b.vault.azure.net/keys/k", "https://1ab.vault.azure.net/keys/k",
		"https://abcdefghijklmnopqrstuvwxy.vault.azure.net/keys/k", "https://demo.vault.azure.net/keys/k%2f..", "https://127.0.0.1/keys/k",
	} {
		vault, _, _, err := hsm.ParseKeyURI(uri)
		if err == nil || hsm.KindOf(err) != hsm.KindMisconfigured || !strings.HasPrefix(err.Error(), "Key Vault URI is invalid") {
			t.Errorf("ParseKeyURI(%q) = %q, %v; want a refusal", uri, vault, err)
		}
	}
	if _, err := hsm.ParseVaultURI("https://demo.vault.azure.net/keys/k"); err == nil {
		t.Error("ParseVaultURI took a key's URI")
	}
}
