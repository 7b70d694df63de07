package drill_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"cmkfs/drill"
)

// TestCatalogue: every outage that must be rehearsed is, and every drill says
// what it is.
func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range drill.Catalogue() {
		if seen[d.Name] {
			t.Errorf("%s is there twice", d.Name)
		}
		seen[d.Name] = true
		if d.Title == "" || d.Source == "" || d.Outcome == "" || strings.ToLower(d.Name) != d.Name || strings.Contains(d.Name, " ") {
			t.Errorf("%+v", d)
		}
		if len(d.Promises()) < 6 {
			t.Errorf("%s promises little: %q", d.Name, d.Promises())
		}
	}
	for _, name := range []string{
		"vault-black-holed", "vault-refused", "vault-reset", "vault-dns-failing", "vault-tls-wrong", "vault-5xx", "vault-throttled",
		"vault-slow", "vault-too-slow", "token-endpoint-down", "vault-permission-removed", "key-disabled", "key-deleted", "key-expired",
		"vault-firewall-on", "vault-wrong-key", "vault-flapping", "token-removed", "token-pin-changed", "token-module-crashed",
		"token-module-hung", "token-files-gone", "disk-full-while-suspending",
		"worker-killed-online", "worker-killed-suspending", "worker-killed-suspended", "worker-killed-restoring",
		"key-agent-killed-online", "key-agent-killed-suspending", "key-agent-killed-suspended", "key-agent-killed-restoring",
		"supervisor-killed-online", "supervisor-killed-suspending", "supervisor-killed-suspended", "supervisor-killed-restoring",
	} {
		if !seen[name] {
			t.Errorf("there is no drill %s", name)
		}
	}
}

// TestCatalogue_Documented: docs/drills.md has every drill as it is.
func TestCatalogue_Documented(t *testing.T) {
	doc, err := os.ReadFile("../docs/drills.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drill.Catalogue() {
		yours := "yes"
		if d.Own != "" {
			yours = "no"
		}
		row := fmt.Sprintf("\n| `%s` | %s | %s | %s | %s |\n", d.Name, d.Needs(), d.Outcome, yours, d.Title)
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/drills.md lacks the row%s", row)
		}
	}
}

func TestChoose(t *testing.T) {
	all, err := drill.Choose([]string{"all"})
	if err != nil || len(all) != len(drill.Catalogue()) {
		t.Errorf("%d drills, %v", len(all), err)
	}
	two, err := drill.Choose([]string{"key-disabled", "vault-refused", "key-disabled"})
	if err != nil || len(two) != 2 {
		t.Errorf("%v, %v", two, err)
	}
	if _, err := drill.Choose([]string{"key-disable"}); err == nil || !strings.Contains(err.Error(), "key-disabled") {
		t.Errorf("%v", err)
	}
}

// TestAdopted_Refuses: what needs power over the vault or the host is not done
// to a user's volume.
func TestAdopted_Refuses(t *testing.T) {
	a := &drill.Adopted{Others: []string{"a/other"}}
	for _, d := range drill.Catalogue() {
		refused := a.Refuses(d) != ""
		// Without a vault there is no network to it, with other volumes no
		// daemon to kill: what is left are the other processes and the lock.
		want := !(strings.Contains(d.Name, "worker-") || strings.Contains(d.Name, "key-agent-") || strings.Contains(d.Name, "keeper-") || d.Name == "suspend-and-restore")
		if refused != want {
			t.Errorf("%s: refused %t, want %t", d.Name, refused, want)
		}
	}
}

// TestRun_EveryDrillCanFail: a good run of each drill passes, and each way in
// which it can be bad is noticed, by the promise that is about it. (That the
// facts are gathered is what TestRun_Broken in cmd/cmkfsd shows.)
func TestRun_EveryDrillCanFail(t *testing.T) {
	noticed := map[string]bool{}
	for _, d := range drill.Catalogue() {
		for _, e := range drill.Judge(d, true, drill.GoodFacts(d)) {
			if !e.Held {
				t.Errorf("%s: a good run does not pass: %s: %s", d.Name, e.Text, e.Detail)
			}
		}
		for _, s := range drill.Spoilt {
			if s.Outcomes != nil && !slices.Contains(s.Outcomes, d.Outcome) {
				continue
			}
			f := drill.GoodFacts(d)
			s.Spoil(d, &f)
			if s.Name == "checks say nothing" && d.Class == "" || s.Name == "a read after the stop" && d.Suspensions > 1 {
				continue // not promised
			}
			found := false
			for _, e := range drill.Judge(d, true, f) {
				if !e.Held {
					noticed[e.Text] = true
					found = found || strings.Contains(e.Text, s.Noticed)
				}
			}
			if !found {
				t.Errorf("%s: %s is not noticed", d.Name, s.Name)
			}
		}
		for _, text := range d.Promises() {
			if !noticed[text] {
				t.Errorf("%s: nothing makes this fail: %s", d.Name, text)
			}
		}
	}
}
