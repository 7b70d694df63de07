package arch_test

import (
	"regexp"
	"strings"
	"testing"
)

// TestAuditKinds: every kind of event has a severity and a line in the document,
// and nobody makes up others.
func TestAuditKinds(t *testing.T) {
	kinds := string(files(t, `^account/auditkinds\.go$`)["account/auditkinds.go"])
	document := string(files(t, `^docs/operations\.md$`)["docs/operations.md"])
	_, severities, _ := strings.Cut(kinds, "var severities")
	found := regexp.MustCompile(`(?m)^\s(Audit\w+)\s+= "([\w-]+)"`).FindAllStringSubmatch(kinds, -1)
	if len(found) < 20 {
		t.Fatalf("only %d kinds found", len(found))
	}
	for _, m := range found {
		if !strings.Contains(severities, m[1]+":") {
			t.Errorf("%s has no severity", m[1])
		}
		if !regexp.MustCompile("(?m)^\\|.*`" + m[2] + "`.*\\| [A-Z]").MatchString(document) {
			t.Errorf("docs/operations.md does not say what %s means", m[2])
		}
	}
	literal := regexp.MustCompile(`Event\{Kind: "`)
	for name, content := range files(t, `^(account|supervisor)/[^/]*\.go$`) {
		if !strings.HasSuffix(name, "_test.go") && literal.Match(content) {
			t.Errorf("%s: a kind of event is one of the constants in account/auditkinds.go", name)
		}
	}
}
