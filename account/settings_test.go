package account_test

import (
	"encoding/json"
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
