package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkfs/hsm"
	kv "cmkfs/hsm/azure/emulator"
	"cmkfs/hsm/hsmtest"
)

// These tests run the real program against the emulated vault or a SoftHSM
// token: one per row of the document's tables of errors and their like for
// tokens. Each looks at the sentence, the cause, what to do next, the exit
// code, and that the account's record is the same to the byte afterwards.

// host is a state directory with its daemon and the account "a".
type host struct {
	t     *testing.T
	state string
	env   []string
}

func newHost(t *testing.T, env map[string]string) *host {
	t.Helper()
	h := &host{t: t, state: filepath.Join(t.TempDir(), "state")}
	for _, v := range os.Environ() {
		if !strings.Contains(strings.ToUpper(v), "_PROXY=") { // a vault that no proxy is in front of
			h.env = append(h.env, v)
		}
	}
	for k, v := range env {
		h.env = append(h.env, k+"="+v)
	}
	h.env = append(h.env, "CMKFS_STATE_DIR="+h.state)
	t.Cleanup(func() { stop(h.state, syscall.SIGTERM) })
	h.must("account", "create", "--name", "a")
	return h
}

// run runs a command and returns its output, its errors and its exit code.
func (h *host) run(args ...string) (stdout, stderr string, exit int) {
	h.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "cmkfsd"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = h.env, &out, &errs
	err := cmd.Run()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		h.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (h *host) must(args ...string) string {
	h.t.Helper()
	out, errs, exit := h.run(args...)
	if exit != 0 {
		h.t.Fatalf("cmkfsd %s: exit code %d\n%s", strings.Join(args, " "), exit, errs)
	}
	return out
}

// record is account.json.
func (h *host) record() []byte {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.state, "accounts", "a", "account.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

// refusal is what a refused command must say; cause and hint are patterns.
type refusal struct {
	exit        int
	condition   hsm.Condition
	because     string // what follows the sentence
	cause, hint string
}

// refused runs a command that must be refused.
func (h *host) refused(want refusal, args ...string) {
	h.t.Helper()
	before := h.record()
	_, errs, exit := h.run(args...)
	if exit != want.exit {
		h.t.Errorf("exit code %d, want %d\n%s", exit, want.exit, errs)
	}
	sentence := want.condition.Error()
	if want.because != "" {
		sentence = want.condition.Because(want.because)
	}
	pattern := `^cmkfsd: ([^\n]*: )?` + regexp.QuoteMeta(strings.TrimRight(sentence, ".")) + "\n"
	if want.cause != "" {
		pattern += `  cause: [^\n]*` + want.cause + `[^\n]*\n`
	}
	pattern += `  what to do next: [^\n]*` + want.hint + `[^\n]*` + regexp.QuoteMeta(want.condition.Resolution()) + `\n$`
	if !regexp.MustCompile(pattern).MatchString(errs) {
		h.t.Errorf("cmkfsd %s says\n%swhich does not fit\n%s", strings.Join(args, " "), errs, pattern)
	}
	if strings.Contains(errs, "eyJ") {
		h.t.Error("a token is shown")
	}
	if !bytes.Equal(before, h.record()) {
		h.t.Error("account.json has changed")
	}
}

// request is what a cause line has of a vault's answer.
const request = `, request [0-9a-f-]{36}`

// cloud is a host and an emulated vault "demo" with a good key "cmk".
type cloud struct {
	*host
	*kv.Emulator
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	e, err := kv.Start(kv.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	c := &cloud{newHost(t, e.Env()), e}
	c.vault("demo", kv.Command{})
	return c
}

func (c *cloud) do(cmd kv.Command) any {
	c.t.Helper()
	r, err := c.Do(cmd)
	if err != nil {
		c.t.Fatalf("%s: %v", cmd.Action, err)
	}
	return r
}

// vault makes a vault with the key cmk, which the host's identity may use.
func (c *cloud) vault(name string, cmd kv.Command, permissions ...string) {
	c.t.Helper()
	if len(permissions) == 0 {
		permissions = []string{"get", "encrypt", "decrypt"}
	}
	cmd.Action, cmd.Vault = kv.VaultCreate, name
	c.do(cmd)
	c.do(kv.Command{Action: kv.KeyCreate, Vault: name, Key: "cmk"})
	c.do(kv.Command{Action: kv.Grant, Vault: name, Identity: kv.SystemIdentity, Permissions: permissions})
}

// update is the command that configures a key.
func (c *cloud) update(uri string, more ...string) []string {
	return append([]string{"account", "update", "--key-uri", uri, "--key-vault-private-endpoint", c.Endpoint(), "--key-vault-ca", c.CA()}, more...)
}

// TestKeyErrors_Configure has the rows of "Errors configuring customer-managed
// key encryption on a NetApp account".
func TestKeyErrors_Configure(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	now := time.Now()
	no := false
	key := func(name string, cmd kv.Command) {
		cmd.Action, cmd.Vault, cmd.Key = kv.KeyCreate, "demo", name
		c.do(cmd)
	}
	key("deleted", kv.Command{})
	c.do(kv.Command{Action: kv.KeyDelete, Vault: "demo", Key: "deleted"})
	key("elliptic", kv.Command{Type: "EC"})
	key("short", kv.Command{Bits: 1024})
	key("off", kv.Command{Enabled: &no})
	key("old", kv.Command{Expires: now.Add(-time.Hour)})
	key("early", kv.Command{NotBefore: now.Add(time.Hour)})
	c.vault("abroad", kv.Command{Region: "northeurope"})
	c.vault("faraway", kv.Command{Region: "polandcentral"}) // not in the document's list
	const demo = "https://demo.vault.azure.net/keys/"
	notFound := refusal{exit: 5, condition: hsm.KeyNotFound, cause: "HTTP 404 KeyNotFound" + request + ": A key with"}
	for name, row := range map[string]struct {
		uri  string
		want refusal
	}{
		"NotFound":        {demo + "none", notFound},
		"NotFoundDeleted": {demo + "deleted", notFound},
		"NotFoundVersion": {demo + "cmk/" + strings.Repeat("0", 32), notFound},
		"NotRSA":          {demo + "elliptic", refusal{exit: 5, condition: hsm.KeyNotRSA, cause: "HTTP 200" + request + `, key type "EC"`}},
		"NotRSAShort":     {demo + "short", refusal{exit: 5, condition: hsm.KeyNotRSA, because: "it has fewer than 2048 bits", cause: "HTTP 200" + request + ", 1024 bits"}},
		"NotEnabled":      {demo + "off", refusal{exit: 5, condition: hsm.KeyNotEnabled, cause: "KeyDisabled: HTTP (403 Forbidden/KeyDisabled|200)" + request}},
		"Expired":         {demo + "old", refusal{exit: 5, condition: hsm.KeyExpired, cause: "KeyExpired: HTTP 200" + request + ", it expired at "}},
		"NotActivated":    {demo + "early", refusal{exit: 5, condition: hsm.KeyNotActive, cause: "KeyNotActive: HTTP 200" + request + ", it becomes active at "}},
		"BadURI":          {"https://demo.vault.azure.net/secrets/cmk", refusal{exit: 2, condition: hsm.BadVaultURI, because: "it must end in /keys/NAME or /keys/NAME/VERSION", cause: "BadURI", hint: "https://NAME.vault.azure.net/keys/KEY"}},
		"BadURIScheme":    {"http://demo.vault.azure.net/keys/cmk", refusal{exit: 2, condition: hsm.BadVaultURI, because: "it must begin with https://", cause: "BadURI"}},
		"BadURIHost":      {"https://demo.example.com/keys/cmk", refusal{exit: 2, condition: hsm.BadVaultURI, because: "the host is no Key Vault or Managed HSM", cause: "BadURI"}},
		"Region":          {"https://abroad.vault.azure.net/keys/cmk", refusal{exit: 5, condition: hsm.RegionMismatch, because: "the account is in westeurope, the vault in northeurope", cause: "RegionMismatch: x-ms-keyvault-region: northeurope", hint: "--location"}},
		"RegionUnlisted":  {"https://faraway.vault.azure.net/keys/cmk", refusal{exit: 5, condition: hsm.RegionMismatch, because: "the account is in westeurope, the vault in polandcentral", cause: "RegionMismatch"}},
	} {
		t.Run(name, func(t *testing.T) { c.in(t).refused(row.want, c.update(row.uri)...) })
	}
	for i, level := range []string{"Purgeable", "Recoverable+Purgeable", "CustomizedRecoverable+Purgeable"} {
		vault := fmt.Sprintf("purge-%d", i)
		c.vault(vault, kv.Command{RecoveryLevel: level})
		t.Run("NotRecoverable/"+level, func(t *testing.T) {
			c.in(t).refused(refusal{exit: 5, condition: hsm.NotRecoverable, cause: "HTTP 200" + request + ", recovery level " + regexp.QuoteMeta(level)},
				c.update("https://"+vault+".vault.azure.net/keys/cmk")...)
		})
	}
	// What was refused for its recovery level or region only is accepted with
	// the right one, in both spellings, and the two ways to name a key agree.
	for i, level := range []string{"Recoverable", "Recoverable+ProtectedSubscription", "CustomizedRecoverable", "CustomizedRecoverable+ProtectedSubscription"} {
		vault := fmt.Sprintf("keep-%d", i)
		c.vault(vault, kv.Command{RecoveryLevel: level})
		c.must(c.update("https://" + vault + ".vault.azure.net/keys/cmk")...)
	}
	for _, location := range []string{"North Europe", "northeurope"} {
		c.must("account", "update", "--key-source", hsm.SourcePlatform)
		c.must(c.update("https://abroad.vault.azure.net/keys/cmk", "--location", location)...)
		if out := c.must("account", "show", "-o", "json"); !strings.Contains(out, `"location": "northeurope"`) {
			t.Error(out)
		}
		c.refused(refusal{exit: 5, condition: hsm.RegionMismatch, because: "the account is in westeurope, the vault in northeurope", cause: "RegionMismatch"},
			"account", "update", "--location", "West Europe")
		c.must("account", "update", "--key-source", hsm.SourcePlatform)
		c.must("account", "update", "--location", "westeurope")
	}
	c.must("account", "update", "--key-vault-uri", "https://demo.vault.azure.net", "--key-name", "cmk", "--key-vault-private-endpoint", c.Endpoint(), "--key-vault-ca", c.CA())

	old := c.do(kv.Command{Action: kv.KeyRotate, Vault: "demo", Key: "cmk"}).(string)
	c.do(kv.Command{Action: kv.KeyRotate, Vault: "demo", Key: "cmk"})
	c.must("account", "update", "--key-vault-uri", "https://demo.vault.azure.net/", "--key-name", "cmk", "--key-version", old[strings.LastIndexByte(old, '/')+1:])
	if out := c.must("account", "show"); !strings.Contains(out, old) {
		t.Errorf("%s is not the key in\n%s", old, out)
	}
	c.must(c.update("https://demo.vault.azure.net/keys/cmk")...)

	// Select from key vault: what list-keys says of a key is what happens to it.
	c.do(kv.Command{Action: kv.Grant, Vault: "demo", Identity: kv.SystemIdentity, Permissions: []string{"list"}})
	key("limited", kv.Command{Ops: []string{"encrypt", "sign"}})
	c.listed(7, func(uri string) []string { return c.update(uri) })

	// A vault that lets the keys be listed only.
	c.vault("blind", kv.Command{}, "list", "encrypt", "decrypt")
	out := c.must("account", "list-keys", "--key-vault-uri", "https://blind.vault.azure.net")
	if !strings.Contains(out, "the access policy does not permit get") {
		t.Error(out)
	}
}

// listed tries every key that list-keys shows.
func (h *host) listed(n int, update func(uri string) []string) {
	h.t.Helper()
	var keys []struct {
		URI    string
		Usable bool
		Reason string
	}
	if err := json.Unmarshal([]byte(h.must("account", "list-keys", "-o", "json")), &keys); err != nil {
		h.t.Fatal(err)
	}
	usable := 0
	for _, k := range keys {
		_, errs, exit := h.run(update(k.URI)...)
		if k.Usable != (exit == 0) || !k.Usable && !strings.Contains(errs, "cmkfsd: "+k.Reason) {
			h.t.Errorf("%+v, but account update: exit code %d\n%s", k, exit, errs)
		}
		if k.Usable {
			usable++
		}
	}
	if len(keys) != n || usable != 1 {
		h.t.Errorf("%d keys listed, %d of them usable; want %d and 1", len(keys), usable, n)
	}
}

// in is the cloud within a subtest.
func (c *cloud) in(t *testing.T) *cloud {
	h := *c.host
	h.t = t
	return &cloud{&h, c.Emulator}
}

// TestKeyErrors_Unusable has the causes of "Unable to use the configured
// encryption key", and names the permission that is missing.
func TestKeyErrors_Unusable(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	yes := true
	all := []string{"get", "encrypt", "decrypt"}
	for name, v := range map[string]struct {
		vault          kv.Command
		domain         string
		says, inner    string // of a missing permission, with %s for it
		hint           string
		wrap           bool
		theirs, action map[string]string // our operations as the vault calls them
	}{
		"policy":  {says: "the access policy does not permit %s", inner: "ForbiddenByPolicy", hint: `permit %s to the identity with the object id [0-9a-f-]{36}`},
		"roles":   {vault: kv.Command{RBAC: &yes}, says: "no role assignment permits %s", inner: "ForbiddenByRbac", hint: "Microsoft.KeyVault/vaults/keys/[a-z/]+"},
		"managed": {vault: kv.Command{Managed: &yes}, domain: "managedhsm", says: "no local role assignment permits %s", inner: "AccessDenied", hint: "a Managed HSM role with %s"},
		"wrap":    {wrap: true, says: "the access policy does not permit %s", inner: "ForbiddenByPolicy", hint: "permit %s to"},
	} {
		c.vault("perm-"+name, v.vault)
		if v.domain == "" {
			v.domain = "vault"
		}
		command := c.update("https://perm-" + name + "." + v.domain + ".azure.net/keys/cmk")
		permissions := all
		if v.wrap {
			command, permissions = append(command, "--key-vault-permissions", "wrap-unwrap"), []string{"get", "wrapKey", "unwrapKey"}
			c.do(kv.Command{Action: kv.Grant, Vault: "perm-" + name, Identity: kv.SystemIdentity, Permissions: permissions})
		}
		for _, missing := range permissions {
			change := kv.Command{Vault: "perm-" + name, Identity: kv.SystemIdentity, Permissions: []string{missing}}
			change.Action = kv.Revoke
			c.do(change)
			named := func(s string) string {
				if strings.Contains(s, "%s") {
					return fmt.Sprintf(s, missing)
				}
				return s
			}
			t.Run(name+"/"+missing, func(t *testing.T) {
				c.in(t).refused(refusal{exit: 5, condition: hsm.Unusable, because: named(v.says),
					cause: v.inner + ": HTTP 403 Forbidden/" + v.inner + request, hint: named(v.hint)}, command...)
			})
			change.Action = kv.Grant
			c.do(change)
		}
	}
	t.Run("NoPermissionAtAll", func(t *testing.T) {
		c := c.in(t)
		c.do(kv.Command{Action: kv.VaultCreate, Vault: "closed"})
		c.do(kv.Command{Action: kv.KeyCreate, Vault: "closed", Key: "cmk"})
		c.refused(refusal{exit: 5, condition: hsm.Unusable, because: "the access policy does not permit get", cause: "Forbidden/AccessDenied" + request, hint: "permit get to"},
			c.update("https://closed.vault.azure.net/keys/cmk")...)
	})
	t.Run("KeyOps", func(t *testing.T) {
		c := c.in(t)
		for _, ops := range [][]string{{"encrypt"}, {"decrypt"}} {
			c.do(kv.Command{Action: kv.KeyCreate, Vault: "demo", Key: "only-" + ops[0], Ops: ops})
		}
		for _, way := range [][2]string{{"encrypt", "decrypt"}, {"decrypt", "encrypt"}} {
			c.refused(refusal{exit: 5, condition: hsm.Unusable, because: "the key itself does not permit " + way[1] + " (key_ops)", cause: "Forbidden/KeyOperationForbidden" + request},
				c.update("https://demo.vault.azure.net/keys/only-"+way[0])...)
		}
	})
	t.Run("IdentityRefused", func(t *testing.T) {
		c := c.in(t)
		c.refused(refusal{exit: 5, condition: hsm.Unusable, because: "the configured identity is refused a token for the Key Vault", cause: "token .*IdentityRefused: token endpoint: HTTP 400", hint: "check that the identity exists"},
			c.update("https://demo.vault.azure.net/keys/cmk", "--identity-type", "UserAssigned", "--user-assigned-identity", "00000000-0000-0000-0000-000000000000")...)
	})
}

// TestKeyErrors_NoConnection has the causes of "Could not connect to the
// KeyVault".
func TestKeyErrors_NoConnection(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	const uri = "https://demo.vault.azure.net/keys/cmk"
	here := "the private endpoint " + c.Endpoint()
	off := kv.Command{Action: kv.FaultClear}
	fault := func(f kv.Fault) kv.Command {
		return kv.Command{Action: kv.FaultAdd, Fault: &f}
	}
	good := c.update(uri)
	other := c.do(kv.Command{Action: kv.IdentityAdd, Identity: "other"}).(*kv.Identity)
	for name, row := range map[string]struct {
		begin, end kv.Command
		command    []string
		want       refusal
	}{
		"Firewall": {kv.Command{Action: kv.Firewall, Vault: "demo", On: true}, kv.Command{Action: kv.Firewall, Vault: "demo"}, good,
			refusal{5, hsm.NoConnection, "its firewall refuses this address", "HTTP 403 Forbidden/ForbiddenByFirewall" + request, "add this host's address"}},
		"PublicAccessDisabled": {kv.Command{Action: kv.PublicAccess, Vault: "demo"}, kv.Command{Action: kv.PublicAccess, Vault: "demo", On: true}, good,
			refusal{5, hsm.NoConnection, "public access is disabled and the request does not come over a private endpoint", "HTTP 403 Forbidden/ForbiddenByConnection" + request, "--key-vault-private-endpoint"}},
		"TCP": {off, off, []string{"account", "update", "--key-uri", uri, "--key-vault-private-endpoint", "127.0.0.1:1"},
			refusal{6, hsm.NoConnection, "nothing accepts connections at the private endpoint 127.0.0.1:1", "Connect: .*connection refused", "routes and firewalls"}},
		"TLS": {off, off, []string{"account", "update", "--key-uri", uri, "--key-vault-private-endpoint", c.Endpoint()},
			refusal{6, hsm.NoConnection, "who answers at " + here + " cannot prove to be the vault", "TLS: .*certificate", "--key-vault-ca"}},
		"DNS": {off, off, []string{"account", "update", "--key-uri", "https://no-such-vault-6x2.vault.azure.net/keys/cmk"},
			refusal{6, hsm.NoConnection, "its name cannot be resolved", "DNS: .*lookup no-such-vault-6x2.vault.azure.net", "private DNS zone"}},
		"Reset": {fault(kv.Fault{Kind: kv.FaultReset}), off, good,
			refusal{6, hsm.NoConnection, "the connection to " + here + " broke", "Connection: ", "between this host and the vault"}},
		"Unavailable": {fault(kv.Fault{Kind: kv.FaultStatus, Status: 503}), off, good,
			refusal{6, hsm.NoConnection, "it is not available at the moment", "HTTP 503", ""}},
		"TokenEndpoint": {fault(kv.Fault{Kind: kv.FaultStatus, Status: 500, Op: "token"}), off,
			append(good[:len(good):len(good)], "--identity-type", "UserAssigned", "--user-assigned-identity", other.ClientID),
			refusal{6, hsm.NoConnection, "the identity's token endpoint does not answer", "token .*IdentityUnavailable: ", "IDENTITY_ENDPOINT"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := c.in(t)
			c.do(row.begin)
			defer c.do(row.end)
			c.refused(row.want, row.command...)
		})
	}
	c.must(good...)
}

// TestKeyErrors_Volume has the rows of "Errors creating a volume encrypted with
// customer-managed keys", when a volume is made.
func TestKeyErrors_Volume(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.must("volume", "create", "--name", "plain")
	vault := []string{"volume", "create", "--name", "v", "--encryption-key-source", hsm.SourceKeyVault}
	c.refused(refusal{exit: 2, condition: hsm.NotConfigured}, vault...)
	c.refused(refusal{exit: 2, condition: hsm.TokenNotConfigured}, "volume", "create", "--name", "v", "--encryption-key-source", hsm.SourcePKCS11)
	c.refused(refusal{exit: 2, condition: hsm.SourceFixed, hint: "cmkfsd account transition-to-cmk"}, "volume", "update", "plain", "--encryption-key-source", hsm.SourceKeyVault)
	c.refused(refusal{exit: 2, condition: hsm.SourceFixed}, "volume", "create", "--name", "plain", "--encryption-key-source", hsm.SourceKeyVault)
	c.must("volume", "update", "plain", "--encryption-key-source", hsm.SourcePlatform)

	// The checks are far between, so that it is the volume that meets it.
	c.must(c.update("https://demo.vault.azure.net/keys/cmk", "--check-interval", "1h", "--outage-grace", "2h")...)
	decrypt := kv.Command{Action: kv.Revoke, Vault: "demo", Identity: kv.SystemIdentity, Permissions: []string{"decrypt"}}
	c.do(decrypt)
	c.refused(refusal{exit: 5, condition: hsm.Unusable, because: "the access policy does not permit decrypt", cause: "decrypt .*ForbiddenByPolicy: HTTP 403" + ".*" + request, hint: "permit decrypt to"}, vault...)
	decrypt.Action = kv.Grant
	c.do(decrypt)
	c.do(kv.Command{Action: kv.Firewall, Vault: "demo", On: true})
	c.refused(refusal{exit: 5, condition: hsm.NoConnection, because: "its firewall refuses this address", cause: "ForbiddenByFirewall", hint: "firewall"}, vault...)
	c.do(kv.Command{Action: kv.Firewall, Vault: "demo"})
	no, yes := false, true
	c.do(kv.Command{Action: kv.KeySet, Vault: "demo", Key: "cmk", Enabled: &no})
	c.refused(refusal{exit: 5, condition: hsm.KeyNotEnabled, cause: "KeyDisabled: HTTP 403 Forbidden/KeyDisabled" + request}, vault...)
	c.do(kv.Command{Action: kv.KeySet, Vault: "demo", Key: "cmk", Enabled: &yes})
	if _, err := os.Stat(filepath.Join(c.state, "accounts", "a", "volumes", "v")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left of the volume: %v", err)
	}
	c.must(vault...)
	c.refused(refusal{exit: 2, condition: hsm.SourceFixed}, "volume", "update", "v", "--encryption-key-source", hsm.SourcePlatform)
}

// TestKeyErrors_Token has the like for a key on a token.
func TestKeyErrors_Token(t *testing.T) {
	token := hsmtest.NewToken(t)
	token.AddKey(t, "curve", "05", "EC:prime256v1", "--usage-sign")
	token.AddKey(t, "short", "04", "rsa:1024", "--usage-decrypt")
	token.AddKey(t, "twice", "06", "rsa:2048", "--usage-decrypt")
	token.AddKey(t, "twice", "07", "rsa:2048", "--usage-decrypt")
	h := newHost(t, nil)
	query := "?module-path=" + hsmtest.SoftHSMModule + "&pin-source=file:" + token.PINFile
	denied := regexp.QuoteMeta("KeyOperationForbidden: CKA_DECRYPT and CKA_UNWRAP are false")
	nothing := func(*testing.T) {}
	for name, row := range map[string]struct {
		begin, end func(*testing.T)
		uri        string
		want       refusal
	}{
		"NotFound":      {nothing, nothing, token.URI("none"), refusal{exit: 5, condition: hsm.TokenKeyNotFound, cause: "pkcs11:token=drill;object=none: KeyNotFound"}},
		"NotRSA":        {nothing, nothing, token.URI("curve"), refusal{exit: 5, condition: hsm.TokenKeyNotRSA, cause: "NotRSA"}},
		"NotRSAShort":   {nothing, nothing, token.URI("short"), refusal{exit: 5, condition: hsm.TokenKeyNotRSA, because: "it has fewer than 2048 bits", cause: "KeyTooShort: 1024 bits"}},
		"Forbidden":     {permit(token, "\x05\x07", 0), permit(token, "\x05\x07", 0xff), token.URI("good"), refusal{exit: 5, condition: hsm.TokenKeyForbidden, cause: denied}},
		"TwoKeys":       {nothing, nothing, token.URI("twice"), refusal{exit: 5, condition: hsm.BadTokenURI, because: "more than one key of the token matches it: add object= or id=", cause: "AmbiguousKey"}},
		"BadURI":        {nothing, nothing, "pkcs11:colour=red", refusal{exit: 2, condition: hsm.BadTokenURI, because: "it has an attribute that is not supported: colour", cause: "BadURI"}},
		"BadURIPIN":     {nothing, nothing, "pkcs11:token=drill;object=good?pin-value=" + hsmtest.PIN, refusal{exit: 2, condition: hsm.BadTokenURI, because: "it contains a PIN: write the PIN to a file of mode 0600 and use pin-source=file:/path instead of pin-value", cause: "BadURI"}},
		"PINWrong":      {func(t *testing.T) { token.SetPIN(t, "000000") }, func(t *testing.T) { token.SetPIN(t, hsmtest.PIN) }, token.URI("good"), refusal{exit: 5, condition: hsm.TokenPINRefused, because: "the PIN is wrong; it is not tried again before the content of the PIN file changes", cause: "login .*CKR_PIN_INCORRECT: the module returned 0xA0"}},
		"PINMissing":    {func(t *testing.T) { token.SetPIN(t, "") }, func(t *testing.T) { token.SetPIN(t, hsmtest.PIN) }, strings.Replace(token.URI("good"), token.PINFile, token.PINFile+".none", 1), refusal{exit: 5, condition: hsm.TokenNoPIN, because: "the file of pin-source cannot be read", cause: "PINSource: .*no such file"}},
		"PINUnnamed":    {nothing, nothing, "pkcs11:token=drill;object=good?module-path=" + hsmtest.SoftHSMModule, refusal{exit: 5, condition: hsm.TokenNoPIN, because: "the URI has no pin-source=file:/path, and the token requires a PIN", cause: "PINSource"}},
		"Absent":        {token.Remove, token.Return, token.URI("good"), refusal{exit: 6, condition: hsm.TokenAbsent, because: "no token matches the URI, or it was removed", cause: "token .*TokenAbsent"}},
		"AbsentLabel":   {nothing, nothing, "pkcs11:token=other;object=good" + query, refusal{exit: 6, condition: hsm.TokenAbsent, because: "no token matches the URI, or it was removed", cause: "TokenAbsent"}},
		"ModuleMissing": {nothing, nothing, "pkcs11:token=drill;object=good?module-path=/nonexistent.so", refusal{exit: 5, condition: hsm.TokenModuleUnusable, because: "it does not exist or cannot be read", cause: "ModuleNotLoadable: .*no such file"}},
		"ModuleIsNone":  {nothing, nothing, "pkcs11:token=drill;object=good?module-path=" + token.PINFile, refusal{exit: 5, condition: hsm.TokenModuleUnusable, because: token.PINFile, cause: "ModuleNotLoadable"}},
	} {
		t.Run(name, func(t *testing.T) {
			on := *h
			on.t = t
			row.begin(t)
			defer row.end(t)
			on.refused(row.want, "account", "update", "--pkcs11-uri", row.uri)
		})
	}
	token.RemoveKey(t, "06")
	token.RemoveKey(t, "07")
	h.must("account", "update", "--pkcs11-uri", token.URI("good"))
	h.listed(3, func(uri string) []string { return []string{"account", "update", "--pkcs11-uri", uri} })

	// A volume meets the same.
	h.must("account", "update", "--check-interval", "1h", "--outage-grace", "2h")
	token.Remove(t)
	h.refused(refusal{exit: 6, condition: hsm.TokenAbsent, because: "no token matches the URI, or it was removed", cause: "TokenAbsent"}, "volume", "create", "--name", "v")
	token.Return(t)
	h.must("volume", "create", "--name", "v")
	h.refused(refusal{exit: 2, condition: hsm.SourceFixed}, "volume", "update", "v", "--encryption-key-source", hsm.SourcePlatform)
}

// permit sets attributes of all keys in SoftHSM's files, named by the last byte
// of their types (4 CKA_ENCRYPT, 5 CKA_DECRYPT, 6 CKA_WRAP, 7 CKA_UNWRAP), as
// scripts/softhsm-rig does: after an attribute's type and kind comes its value,
// true being ff.
func permit(token *hsmtest.Token, attributes string, value byte) func(*testing.T) {
	flag := regexp.MustCompile(`(?s)\x00{6}\x01[` + attributes + `]\x00{7}\x01`)
	return func(t *testing.T) {
		t.Helper()
		objects, err := filepath.Glob(filepath.Join(token.Dir, "tokens", "*", "*.object"))
		if err != nil || len(objects) == 0 {
			t.Fatal(objects, err)
		}
		for _, o := range objects {
			b, err := os.ReadFile(o)
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range flag.FindAllIndex(b, -1) {
				b[at[1]] = value
			}
			if err := os.WriteFile(o, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
