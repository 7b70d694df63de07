package hsm_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm"
)

// The sentences and resolutions that users look for, to the letter.
func TestConditions_AreTheDocuments(t *testing.T) {
	for c, want := range map[hsm.Condition][2]string{
		hsm.KeyNotFound:    {"The operation failed because the specified key vault key was not found", "When entering key URI manually, ensure that the URI is correct"},
		hsm.KeyNotRSA:      {"Azure Key Vault key is not a valid RSA key", "Ensure that the selected key is of type RSA"},
		hsm.KeyNotEnabled:  {"Azure Key Vault key is not enabled", "Ensure that the selected key is enabled"},
		hsm.KeyExpired:     {"Azure Key Vault key is expired", "Ensure that the selected key is valid"},
		hsm.KeyNotActive:   {"Azure Key Vault key has not been activated", "Ensure that the selected key is active"},
		hsm.BadVaultURI:    {"Key Vault URI is invalid", "When entering key URI manually, ensure that the URI is correct"},
		hsm.NotRecoverable: {"Azure Key Vault is not recoverable. Make sure that Soft-delete and Purge protection are both enabled on the Azure Key Vault", "Update the key vault recovery level to: Recoverable/Recoverable+ProtectedSubscription/CustomizedRecoverable/CustomizedRecoverable+ProtectedSubscription"},
		hsm.RegionMismatch: {"Account must be in the same region as the Vault", "Ensure the key vault is in the same region as the NetApp account"},
		hsm.NotConfigured:  {"Volume cannot be encrypted with Microsoft.KeyVault, NetAppAccount has not been configured with KeyVault encryption", "Your NetApp account doesn't have customer-managed key encryption enabled. Configure the NetApp account to use customer-managed key"},
		hsm.SourceFixed:    {"EncryptionKeySource cannot be changed", "No resolution. The EncryptionKeySource property of a volume can't be changed"},
		hsm.Unusable:       {"Unable to use the configured encryption key, please check if key is active", "Check that: Are all access policies correct on the key vault: Get, Encrypt, Decrypt? Does a private endpoint for the key vault exist?"},
		hsm.NoConnection:   {"Could not connect to the KeyVault", "Ensure that the private endpoint is set up correctly and the firewalls aren't blocking the connection from your Virtual Network to your KeyVault"},
	} {
		if got := [2]string{c.Error(), c.Resolution()}; got != want {
			t.Errorf("%s: %q", string(c), got)
		}
	}
}

func TestInfo_Usable(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	vault := hsm.Info{KeyID: "https://v.vault.azure.net/keys/k/1", Type: hsm.TypeRSA, Bits: 2048, Enabled: true, RecoveryLevel: "Recoverable", Answer: "HTTP 200, request 17"}
	token := hsm.Info{KeyID: "pkcs11:token=T;object=K", Type: hsm.TypeRSAHSM, Bits: 2048, Enabled: true}
	for name, tc := range map[string]struct {
		change   func(*hsm.Info)
		inVault  hsm.Condition // "" = usable
		onToken  hsm.Condition
		sentence string // its end
	}{
		"good":                  {func(*hsm.Info) {}, "", "", ""},
		"in a Managed HSM":      {func(i *hsm.Info) { i.Type = hsm.TypeRSAHSM }, "", "", ""},
		"long":                  {func(i *hsm.Info) { i.Bits = 4096 }, "", "", ""},
		"elliptic":              {func(i *hsm.Info) { i.Type = "EC" }, hsm.KeyNotRSA, hsm.TokenKeyNotRSA, ""},
		"symmetric":             {func(i *hsm.Info) { i.Type = "oct-HSM" }, hsm.KeyNotRSA, hsm.TokenKeyNotRSA, ""},
		"without type":          {func(i *hsm.Info) { i.Type = "" }, hsm.KeyNotRSA, hsm.TokenKeyNotRSA, ""},
		"short":                 {func(i *hsm.Info) { i.Bits = 2047 }, hsm.KeyNotRSA, hsm.TokenKeyNotRSA, ": it has fewer than 2048 bits"},
		"disabled":              {func(i *hsm.Info) { i.Enabled = false }, hsm.KeyNotEnabled, hsm.TokenKeyForbidden, ""},
		"expired this moment":   {func(i *hsm.Info) { i.Expires = now }, hsm.KeyExpired, hsm.TokenKeyExpired, ""},
		"expires in a moment":   {func(i *hsm.Info) { i.Expires = now.Add(time.Second) }, "", "", ""},
		"active in a moment":    {func(i *hsm.Info) { i.NotBefore = now.Add(time.Second) }, hsm.KeyNotActive, hsm.TokenKeyNotActive, ""},
		"active since a moment": {func(i *hsm.Info) { i.NotBefore = now }, "", "", ""},
	} {
		for kind, info := range map[string]hsm.Info{"vault": vault, "token": token} {
			want := tc.inVault
			if kind == "token" {
				want = tc.onToken
			}
			tc.change(&info)
			err := info.Usable(now)
			if want == "" {
				if err != nil {
					t.Errorf("%s %s: %v", kind, name, err)
				}
				continue
			}
			var e *hsm.Error
			if !errors.As(err, &e) || !errors.Is(fmt.Errorf("update: %w", err), want) || e.Message != want.Error()+tc.sentence || e.Err == nil {
				t.Errorf("%s %s: got %#v, want %s", kind, name, err, string(want))
			}
			if kind == "vault" && !strings.Contains(e.Cause(), "request 17") {
				t.Errorf("%s: the cause does not say what the vault answered: %s", name, e.Cause())
			}
		}
	}
}

func TestInfo_Usable_Platform(t *testing.T) {
	if err := (hsm.Info{Type: hsm.TypePlatform}).Usable(time.Now()); err != nil {
		t.Error(err)
	}
}

// The seven recovery levels of Key Vault, and what a vault that names none or a
// new one is taken for.
func TestInfo_Usable_RecoveryLevels(t *testing.T) {
	for level, usable := range map[string]bool{
		"Recoverable":                                 true,
		"Recoverable+ProtectedSubscription":           true,
		"CustomizedRecoverable":                       true,
		"CustomizedRecoverable+ProtectedSubscription": true,
		"Purgeable":                                   false,
		"Recoverable+Purgeable":                       false,
		"CustomizedRecoverable+Purgeable":             false,
		"SomethingNew":                                false,
		"":                                            true, // a vault implementation that does not tell
	} {
		err := hsm.Info{KeyID: "https://v.vault.azure.net/keys/k/1", Type: hsm.TypeRSA, Bits: 2048, Enabled: true, RecoveryLevel: level}.Usable(time.Now())
		if usable != (err == nil) || err != nil && !errors.Is(err, hsm.NotRecoverable) {
			t.Errorf("%q: %v", level, err)
		}
	}
}
