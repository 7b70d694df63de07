package azure_test

import (
	"net/url"
	"strings"
	"testing"

	"cmkfs/hsm/azure"
)

// FuzzReadChallenge: whatever a host asks for, what reaches the SDK is a
// challenge that it can take apart: it looks for the tenant after the third
// slash and panics if there is none.
func FuzzReadChallenge(f *testing.F) {
	for _, seed := range []string{
		goodChallenge, "", "Bearer", "Bearer =", `Bearer authorization="`, `Bearer authorization=https://h/t resource=r`,
		`Bearer authorization="https://h/ /x", scope="https://vault.azure.net/.default"`, `bearer a=b,,,c="d,e" Basic realm="x"`,
		`Bearer authorization="https://h/t,u", resource="https://vault.azure.net", claims="e30=", error="insufficient_claims"`,
		"Bearer authorization=\"https://h/t\x00\", resource=\"a b\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		challenge, err := azure.ReadChallenge(header)
		if err != nil {
			return
		}
		_, rest, ok := strings.Cut(challenge, `Bearer authorization="`)
		authorization, _, _ := strings.Cut(rest, `"`)
		parts := strings.Split(authorization, "/")
		if !ok || len(parts) < 4 || parts[3] == "" || !strings.Contains(challenge, `resource="`) {
			t.Fatalf("%q became %q", header, challenge)
		}
		if u, err := url.Parse(authorization); err == nil && u.Scheme != "https" {
			t.Fatalf("%q became %q", header, challenge)
		}
		if again, err := azure.ReadChallenge(challenge); err != nil || again != challenge {
			t.Fatalf("%q became %q and then %q, %v", header, challenge, again, err)
		}
	})
}
