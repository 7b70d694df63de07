package emulator_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm/azure/emulator"
)

// client speaks to the emulator as the documentation of the service says, and
// shares no code with our own client.
type client struct {
	e    *emulator.Emulator
	http *http.Client
}

func start(t *testing.T, dir string) *client {
	t.Helper()
	e, err := emulator.Start(emulator.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	pem, err := os.ReadFile(e.CA())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no authority")
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ".azure.net:443") {
				addr = e.Endpoint()
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{e, &http.Client{Transport: transport, Timeout: 10 * time.Second}}
}

func (c *client) do(t *testing.T, cmd emulator.Command) any {
	t.Helper()
	r, err := c.e.Do(cmd)
	if err != nil {
		t.Fatalf("%s: %v", cmd.Action, err)
	}
	return r
}

// furnish makes the vault "demo" with the key "cmk", all of which the system
// identity may use.
func (c *client) furnish(t *testing.T) {
	t.Helper()
	c.do(t, emulator.Command{Action: emulator.VaultCreate, Vault: "demo"})
	c.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "cmk"})
	c.do(t, emulator.Command{Action: emulator.Grant, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: emulator.Operations})
}

// answer is a decoded reply.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// at follows keys into the body.
func (a answer) at(path ...string) any {
	var v any = a.body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func (c *client) call(t *testing.T, token, method, url string, body any) answer {
	t.Helper()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &a.body); err != nil {
			t.Fatalf("%s %s: %v in %q", method, url, err, b)
		}
	}
	return a
}

func (c *client) token(t *testing.T, query string) string {
	t.Helper()
	env := c.e.Env()
	req, err := http.NewRequestWithContext(t.Context(), "GET", env["IDENTITY_ENDPOINT"]+"?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-IDENTITY-HEADER", env["IDENTITY_HEADER"])
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("token: HTTP %d, %v", resp.StatusCode, err)
	}
	return v.Token
}

const base = "https://demo.vault.azure.net"

const version = "?api-version=2025-07-01"

func TestChallenge(t *testing.T) {
	c := start(t, t.TempDir())
	c.furnish(t)
	for _, token := range []string{"", "nonsense", "a.b.c", c.token(t, "") + "x"} {
		a := c.call(t, token, "GET", base+"/keys/cmk/"+version, nil)
		challenge := a.header.Get("WWW-Authenticate")
		if a.status != 401 || !strings.HasPrefix(challenge, `Bearer authorization="https://login.microsoftonline.com/`) || !strings.HasSuffix(challenge, `, resource="https://vault.azure.net"`) {
			t.Errorf("token %q: HTTP %d, challenge %q", token, a.status, challenge)
		}
		if a.at("error", "code") != "Unauthorized" {
			t.Errorf("token %q: %v", token, a.body)
		}
	}
	if a := c.call(t, "", "GET", base+"/healthstatus", nil); a.status != 200 {
		t.Errorf("healthstatus without a token: HTTP %d", a.status)
	}
	a := c.call(t, c.token(t, ""), "GET", base+"/keys/cmk/"+version, nil)
	if a.status != 200 || a.at("key", "kty") != "RSA" {
		t.Errorf("with a token: HTTP %d, %v", a.status, a.body)
	}
	for _, name := range []string{"x-ms-request-id", "x-ms-keyvault-region", "x-ms-keyvault-service-version", "x-ms-keyvault-network-info"} {
		if a.header.Get(name) == "" {
			t.Errorf("header %s is missing", name)
		}
	}
	if a := c.call(t, c.token(t, ""), "GET", base+"/keys/cmk/", nil); a.status != 400 {
		t.Errorf("without api-version: HTTP %d, want 400", a.status)
	}
}

// seal encrypts or decrypts through the vault.
func (c *client) seal(t *testing.T, token, op, value string) answer {
	t.Helper()
	return c.call(t, token, "POST", base+"/keys/cmk/"+op+version, map[string]string{"alg": "RSA-OAEP-256", "value": value})
}

func TestDates(t *testing.T) {
	c := start(t, t.TempDir())
	c.furnish(t)
	token := c.token(t, "")
	plain := base64.RawURLEncoding.EncodeToString([]byte("plaintext"))
	a := c.seal(t, token, "encrypt", plain)
	sealed, _ := a.at("value").(string)
	kid, _ := a.at("kid").(string)
	if a.status != 200 || len(kid) != len(base+"/keys/cmk/")+32 {
		t.Fatalf("encrypt: HTTP %d, %v", a.status, a.body)
	}
	both := func(when string, encrypt int) {
		t.Helper()
		if a := c.seal(t, token, "encrypt", plain); a.status != encrypt {
			t.Errorf("%s: encrypt gives HTTP %d, want %d", when, a.status, encrypt)
		}
		if a := c.seal(t, token, "decrypt", sealed); a.status != 200 || a.at("value") != plain {
			t.Errorf("%s: decrypt gives HTTP %d: %v", when, a.status, a.body)
		}
	}
	both("active", 200)
	now := time.Now()
	c.do(t, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", NotBefore: now.Add(-time.Hour), Expires: now.Add(time.Hour)})
	both("within its dates", 200)
	c.do(t, emulator.Command{Action: emulator.ClockAdvance, Advance: 2 * time.Hour})
	both("expired", 403)
	c.do(t, emulator.Command{Action: emulator.ClockAdvance, Advance: -4 * time.Hour})
	both("not yet active", 403)
	c.do(t, emulator.Command{Action: emulator.ClockReset})
	both("at the real time again", 200)
}

func TestRefusals(t *testing.T) {
	c := start(t, t.TempDir())
	c.furnish(t)
	token := c.token(t, "")
	no, yes := false, true
	set := func(cmd emulator.Command) { t.Helper(); cmd.Vault, cmd.Key = "demo", "cmk"; c.do(t, cmd) }
	want := func(status int, inner any) {
		t.Helper()
		if a := c.seal(t, token, "encrypt", "AAAA"); a.status != status || a.at("error", "innererror", "code") != inner {
			t.Errorf("HTTP %d, %v; want %d, %v", a.status, a.body, status, inner)
		}
	}
	want(200, nil)
	set(emulator.Command{Action: emulator.KeySet, Enabled: &no})
	want(403, "KeyDisabled")
	set(emulator.Command{Action: emulator.KeySet, Enabled: &yes, Ops: []string{"decrypt"}})
	want(403, "KeyOperationForbidden")
	set(emulator.Command{Action: emulator.KeySet, Ops: []string{"encrypt", "decrypt"}})
	set(emulator.Command{Action: emulator.Firewall, On: true})
	want(403, "ForbiddenByFirewall")
	set(emulator.Command{Action: emulator.Firewall})
	set(emulator.Command{Action: emulator.PublicAccess})
	want(403, "ForbiddenByConnection")
	set(emulator.Command{Action: emulator.PublicAccess, On: true})
	set(emulator.Command{Action: emulator.Revoke, Identity: emulator.SystemIdentity, Permissions: []string{"encrypt"}})
	want(403, "ForbiddenByPolicy")
	set(emulator.Command{Action: emulator.VaultSet, RBAC: &yes})
	want(403, "ForbiddenByRbac")
	set(emulator.Command{Action: emulator.VaultSet, RBAC: &no})
	set(emulator.Command{Action: emulator.Revoke, Identity: emulator.SystemIdentity})
	want(403, "AccessDenied")
	set(emulator.Command{Action: emulator.IdentityClear, Identity: emulator.SystemIdentity})
	want(401, nil)
}

func TestLifeOfAKey(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	c.furnish(t)
	token := c.token(t, "")
	call := func(method, path string, body any, status int) answer {
		t.Helper()
		a := c.call(t, token, method, base+path+version, body)
		if a.status != status {
			t.Errorf("%s %s: HTTP %d, want %d: %v", method, path, a.status, status, a.body)
		}
		return a
	}
	first := call("GET", "/keys/cmk", nil, 200).at("key", "kid")
	second := call("POST", "/keys/cmk/rotate", map[string]any{}, 200).at("key", "kid")
	if first == second || call("GET", "/keys/cmk/", nil, 200).at("key", "kid") != second {
		t.Errorf("rotation from %v to %v", first, second)
	}
	if n := len(call("GET", "/keys/cmk/versions", nil, 200).body["value"].([]any)); n != 2 {
		t.Errorf("%d versions, want 2", n)
	}
	call("PATCH", "/keys/cmk", map[string]any{"attributes": map[string]any{"enabled": false}}, 200)
	if call("GET", "/keys/cmk", nil, 200).at("attributes", "enabled") != false {
		t.Error("update did not disable the key")
	}
	call("POST", "/keys/other/create", map[string]any{"kty": "RSA", "key_size": 2048, "attributes": map[string]any{"exp": 1}}, 200)
	call("POST", "/keys/bad/create", map[string]any{"kty": "DSA"}, 400)
	call("GET", "/keys/bad", nil, 404)
	if a := call("DELETE", "/keys/cmk", nil, 200); a.at("recoveryId") != base+"/deletedkeys/cmk" {
		t.Errorf("delete: %v", a.body)
	}
	if a := call("GET", "/keys/cmk", nil, 404); a.at("error", "code") != "KeyNotFound" {
		t.Errorf("a deleted key: %v", a.body)
	}
	call("POST", "/keys/cmk/create", map[string]any{"kty": "RSA"}, 409)
	call("DELETE", "/deletedkeys/cmk", nil, 403) // purge protection
	call("GET", "/deletedkeys/cmk", nil, 200)

	// What is deleted, and everything else, is there after a restart, at the
	// same addresses and for the same tokens.
	endpoint := c.e.Endpoint()
	c.e.Close()
	c = start(t, dir)
	if c.e.Endpoint() != endpoint {
		t.Errorf("endpoint %s after a restart, before %s", c.e.Endpoint(), endpoint)
	}
	call("POST", "/deletedkeys/cmk/recover", nil, 200)
	if call("GET", "/keys/cmk", nil, 200).at("key", "kid") != second {
		t.Error("the recovered key is another")
	}
	c.do(t, emulator.Command{Action: emulator.VaultSet, Vault: "demo", RecoveryLevel: "Recoverable+Purgeable"})
	call("DELETE", "/keys/cmk", nil, 200)
	call("DELETE", "/deletedkeys/cmk", nil, 204)
	call("GET", "/deletedkeys/cmk", nil, 404)
	call("GET", "/nonsense", nil, 404)
	call("POST", "/keys/a/b/c/d", nil, 404)
}

func TestTokenEndpoints(t *testing.T) {
	c := start(t, t.TempDir())
	env := c.e.Env()
	id := c.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "volumes"}).(*emulator.Identity)
	get := func(path, header, value string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", env["KEYVAULT_EMULATOR_CONTROL"]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header, value)
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	const app, imds = "/msi/token?api-version=2019-08-01&resource=https://vault.azure.net", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
	for _, tc := range []struct {
		path, header, value string
		want                int
	}{
		{app, "X-IDENTITY-HEADER", env["IDENTITY_HEADER"], 200},
		{app, "X-IDENTITY-HEADER", "wrong", 401},
		{app + "&client_id=" + id.ClientID, "X-IDENTITY-HEADER", env["IDENTITY_HEADER"], 200},
		{app + "&client_id=nobody", "X-IDENTITY-HEADER", env["IDENTITY_HEADER"], 400},
		{imds, "Metadata", "true", 200},
		{imds, "Metadata", "", 400},
		{imds + "&msi_res_id=" + id.ResourceID, "Metadata", "true", 200},
		{imds + "&object_id=" + id.ObjectID, "Metadata", "true", 200},
		{imds + "&object_id=nobody", "Metadata", "true", 400},
	} {
		if got := get(tc.path, tc.header, tc.value); got != tc.want {
			t.Errorf("%s with %s %q: HTTP %d, want %d", tc.path, tc.header, tc.value, got, tc.want)
		}
	}
}

func TestStart_Refuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := emulator.Start(emulator.Config{Dir: dir, Control: "0.0.0.0:0"}); err == nil {
		t.Error("the control address may be reached from elsewhere")
	}
	if err := os.WriteFile(dir+"/state.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := emulator.Start(emulator.Config{Dir: dir}); err == nil {
		t.Error("a damaged state was accepted")
	}
}
