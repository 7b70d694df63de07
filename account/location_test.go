package account_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"cmkfs/account"
	"cmkfs/hsm"
)

// regions is the document's list of supported regions, as it spells them.
const regions = `Australia Central, Australia Central 2, Australia East, Australia Southeast, Brazil South, Brazil Southeast,
Canada Central, Canada East, Central India, Central US, East Asia, East US, East US 2, France Central, Germany North,
Germany West Central, Israel Central, Italy North, Japan East, Japan West, Korea Central, Korea South, North Central US,
North Europe, Norway East, Norway West, Qatar Central, South Africa North, South Central US, South India, Southeast Asia,
Spain Central, Sweden Central, Switzerland North, Switzerland West, UAE Central, UAE North, UK South, UK West,
US Gov Arizona, US Gov Texas, US Gov Virginia, West Europe, West US, West US 2, West US 3`

func TestNormalizeLocation_BothSpellings(t *testing.T) {
	n := 0
	for spelled := range strings.SplitSeq(strings.ReplaceAll(regions, "\n", " "), ",") {
		n++
		spelled = strings.TrimSpace(spelled)
		short := strings.ToLower(strings.ReplaceAll(spelled, " ", ""))
		for _, s := range []string{spelled, short, strings.ToUpper(spelled), " " + spelled + " ", strings.ReplaceAll(spelled, " ", "  ")} {
			if got, err := account.NormalizeLocation(s); err != nil || got != short {
				t.Errorf("%q = %q, %v; want %q", s, got, err, short)
			}
		}
	}
	if n != 46 {
		t.Errorf("%d regions, the document has 46", n)
	}
	for _, s := range []string{"", " ", "mars", "westeurop", "west-europe", "centraluseuap"} {
		if got, err := account.NormalizeLocation(s); !errors.Is(err, account.ErrInvalid) {
			t.Errorf("%q = %q, %v; want a refusal", s, got, err)
		}
	}
}

// inRegion is a vault that says where it is.
type inRegion struct {
	vault
	region string
}

func (v inRegion) Examine(ctx context.Context, c hsm.Config) (hsm.Info, error) {
	info, err := v.vault.Examine(ctx, c)
	if c.Azure != nil {
		info.Region = v.region
	}
	return info, err
}

// A vault is in the account's region or the account stays as it is, however the
// vault spells its own, and also if that is a region nobody can choose.
func TestAccount_Changed_Region(t *testing.T) {
	for told, fits := range map[string]bool{
		"westeurope": true, "West Europe": true, "": true,
		"northeurope": false, "North Europe": false, "westeurope2": false, "polandcentral": false,
	} {
		agent := inRegion{vault{"platform": true, "https://v/keys/k": true}, told}
		unused := func(string) (bool, error) { return false, nil }
		a, err := account.New(t.Context(), "a", "West Europe", nil, hsm.Config{Source: hsm.SourcePlatform, Platform: &hsm.PlatformConfig{KeyFile: "/k"}}, agent)
		if err != nil {
			t.Fatal(err)
		}
		b, err := a.Changed(t.Context(), account.Change{Key: azureKey("k")}, unused, agent)
		if fits != (err == nil) || err != nil && !errors.Is(err, hsm.RegionMismatch) {
			t.Errorf("vault in %q: %v", told, err)
		}
		if err != nil || told == "" {
			continue
		}
		// Nor does the account move away from its vault.
		for _, where := range []string{"northeurope", "West Europe"} {
			_, err := b.Changed(t.Context(), account.Change{Location: &where}, unused, agent)
			if (where == "West Europe") != (err == nil) || err != nil && !errors.Is(err, hsm.RegionMismatch) {
				t.Errorf("account to %s, vault in %q: %v", where, told, err)
			}
		}
	}
}
