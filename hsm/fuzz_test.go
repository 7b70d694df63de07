package hsm_test

import (
	"net/url"
	"strings"
	"testing"

	"cmkfs/hsm"
)

// A key URI that is taken leads to a vault of Azure over TLS, and written anew
// from its parts it is the same key.
func FuzzParseKeyURI(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		if vault, err := hsm.ParseVaultURI(s); err == nil {
			checkVault(t, s, vault)
		}
		vault, name, version, err := hsm.ParseKeyURI(s)
		if err != nil {
			if hsm.KindOf(err) != hsm.KindMisconfigured {
				t.Errorf("%q is refused with %v", s, err)
			}
			return
		}
		checkVault(t, s, vault)
		again := vault + "keys/" + name
		if version != "" {
			again += "/" + version
		}
		if v, n, ver, err := hsm.ParseKeyURI(again); err != nil || v != vault || n != name || ver != version {
			t.Errorf("%q is %q, %q, %q, and that is %q, %q, %q, %v", s, vault, name, version, v, n, ver, err)
		}
	})
}

func checkVault(t *testing.T, s, vault string) {
	t.Helper()
	u, err := url.Parse(vault)
	if err != nil || u.Scheme != "https" || u.Path != "/" || u.Port() != "" || u.Host != strings.ToLower(u.Host) || strings.Count(u.Host, ".") < 3 {
		t.Errorf("%q leads to %q (%v)", s, vault, err)
	}
	if again, err := hsm.ParseVaultURI(vault); err != nil || again != vault {
		t.Errorf("%q leads to %q, and that to %q, %v", s, vault, again, err)
	}
}
