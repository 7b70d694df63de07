package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	kv "cmkfs/hsm/azure/emulator"
	"cmkfs/hsm/hsmtest"
)

// checked is what account check -o json prints.
type checked struct {
	KeyID string
	Steps []struct{ Step, Result, Detail, Hint string }
}

// broken is one link of the chain that is broken, and how that shows.
type broken struct {
	name        string
	sever, mend func()
	env         []string
	flags       []string
	around      []string // the command before it, if any

	step string // that fails; "" = none
	exit int
	hint string // a pattern of what to do next
}

// check runs account check with the link broken and wants every step before it
// to be ok, none after it to be tried, and the hint both in the JSON and on
// standard error.
func (h *host) check(t *testing.T, b broken) {
	t.Helper()
	if b.sever != nil {
		b.sever()
	}
	if b.mend != nil {
		defer b.mend()
	}
	args := append(append(b.around[:len(b.around):len(b.around)], filepath.Join(bin, "cmkfsd"), "account", "check", "-o", "json"), b.flags...)
	var out, errs bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(h.env[:len(h.env):len(h.env)], b.env...), &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	stdout, stderr, exit := out.String(), errs.String(), cmd.ProcessState.ExitCode()
	reached := slices.Contains([]string{"get", "encrypt", "decrypt"}, b.step) // the vault or token itself refuses
	var got checked
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Errorf("%v\n%s%s", err, stdout, stderr)
		return
	}
	want := "ok"
	for _, s := range got.Steps {
		if s.Step == b.step {
			if s.Result != "failed" || !regexp.MustCompile(b.hint).MatchString(s.Hint) || s.Detail == "" {
				t.Errorf("%+v, want the hint %q", s, b.hint)
			}
			if !strings.Contains(stderr, "what to do next: "+s.Hint) || !strings.Contains(stderr, s.Detail) {
				t.Errorf("standard error says %s", stderr)
			}
			want = "skipped"
			continue
		}
		if s.Step == "account key" && want == "skipped" && reached {
			if s.Result != "ok" && s.Result != "failed" {
				t.Errorf("%+v, although the vault or token answers", s)
			}
			continue
		}
		if s.Result != want {
			t.Errorf("step %s is %s (%s), want %s", s.Step, s.Result, s.Detail, want)
		}
	}
	if exit != b.exit || b.step != "" && want == "ok" {
		t.Errorf("exit code %d, want %d; steps %+v\n%s", exit, b.exit, got.Steps, stderr)
	}
}

// TestAccountCheck_KeyVault_EachLink breaks each link of the way to a key in a
// vault for real, one at a time.
func TestAccountCheck_KeyVault_EachLink(t *testing.T) {
	c := newCloud(t)
	do := func(cmd kv.Command) { c.do(cmd) }
	grant := kv.Command{Action: kv.Grant, Vault: "demo", Identity: kv.SystemIdentity, Permissions: []string{"get", "encrypt", "decrypt"}}
	c.must("account", "update", "--key-uri", "https://demo.vault.azure.net/keys/cmk",
		"--key-vault-private-endpoint", c.Endpoint(), "--key-vault-ca", c.CA())
	stop(c.state, syscall.SIGTERM) // it is not needed, and would follow new versions

	revoke := func(p string) func() {
		return func() {
			do(kv.Command{Action: kv.Revoke, Vault: "demo", Identity: kv.SystemIdentity, Permissions: []string{p}})
		}
	}
	granted := func() { do(grant) }
	yes, no := true, false
	enable := func(on *bool, version string) func() {
		return func() {
			do(kv.Command{Action: kv.KeySet, Vault: "demo", Key: "cmk", Version: version, Enabled: on})
		}
	}
	fault := func(f kv.Fault) func() {
		return func() { do(kv.Command{Action: kv.FaultAdd, Fault: &f}) }
	}
	clear := func() { do(kv.Command{Action: kv.FaultClear}) }
	ops := func(ops ...string) func() {
		return func() { do(kv.Command{Action: kv.KeySet, Vault: "demo", Key: "cmk", Ops: ops}) }
	}
	public, noName := names(t, c.Endpoint())

	for _, b := range []broken{
		{name: "nothing"},
		{name: "the public name", flags: []string{"--key-vault-private-endpoint", "none"}, around: public},
		{name: "no such name", flags: []string{"--key-vault-private-endpoint", "none"}, around: noName,
			step: "DNS", exit: 6, hint: "private DNS zone"},
		{name: "a proxy that is not there", flags: []string{"--key-vault-private-endpoint", "none"}, env: []string{"HTTPS_PROXY=http://127.0.0.1:1"},
			step: "TCP", exit: 6, hint: "the proxy 127.0.0.1:1 .*NO_PROXY"},
		{name: "a closed port", flags: []string{"--key-vault-private-endpoint", "127.0.0.1:1"},
			step: "TCP", exit: 6, hint: "routes and firewalls"},
		{name: "an unknown authority", flags: []string{"--key-vault-ca", "none"},
			step: "TLS", exit: 6, hint: "--key-vault-ca"},
		{name: "somebody else answers", flags: []string{"--key-vault-private-endpoint", strings.TrimPrefix(c.Env()["KEYVAULT_EMULATOR_CONTROL"], "http://")},
			step: "TLS", exit: 6, hint: "check the address"},
		{name: "refuses TLS", sever: fault(kv.Fault{Kind: kv.FaultRefuse}), mend: clear,
			step: "TLS", exit: 6, hint: "check the address"},
		{name: "no token endpoint", env: []string{"IDENTITY_ENDPOINT=http://127.0.0.1:1/msi/token"},
			step: "token", exit: 6, hint: "IDENTITY_ENDPOINT"},
		{name: "no such identity", flags: []string{"--identity-type", "UserAssigned", "--user-assigned-identity", "00000000-0000-0000-0000-000000000001"},
			step: "token", exit: 5, hint: "the identity exists"},
		{name: "no certificate", env: []string{"AZURE_CLIENT_CERTIFICATE_PATH=/nowhere/client.pem"},
			step: "token", exit: 5, hint: "."},
		{name: "may not get", sever: revoke("get"), mend: granted,
			step: "get", exit: 5, hint: "permit get to the identity with the object id [0-9a-f-]+"},
		{name: "no such key", flags: []string{"--key-name", "none"},
			step: "get", exit: 5, hint: "list-keys"},
		{name: "disabled", sever: enable(&no, ""), mend: enable(&yes, ""),
			step: "get", exit: 5, hint: "enabled"},
		{name: "a firewall", sever: func() { do(kv.Command{Action: kv.Firewall, Vault: "demo", On: true}) },
			mend: func() { do(kv.Command{Action: kv.Firewall, Vault: "demo"}) },
			step: "get", exit: 5, hint: "firewall"},
		{name: "public access disabled", sever: func() { do(kv.Command{Action: kv.PublicAccess, Vault: "demo"}) },
			mend: func() { do(kv.Command{Action: kv.PublicAccess, Vault: "demo", On: true}) },
			step: "get", exit: 5, hint: "--key-vault-private-endpoint"},
		{name: "throttled", sever: fault(kv.Fault{Kind: kv.FaultThrottle, Op: "get"}), mend: clear,
			step: "get", exit: 6, hint: "."},
		{name: "may not encrypt", sever: revoke("encrypt"), mend: granted,
			step: "encrypt", exit: 5, hint: "permit encrypt to the identity .*wrap-unwrap"},
		{name: "key_ops without encrypt", sever: ops("decrypt"), mend: ops("encrypt", "decrypt"),
			step: "encrypt", exit: 5, hint: "add encrypt to the key's permitted operations"},
		{name: "may not decrypt", sever: revoke("decrypt"), mend: granted,
			step: "decrypt", exit: 5, hint: "permit decrypt to the identity"},
		{name: "decrypting fails", sever: fault(kv.Fault{Kind: kv.FaultStatus, Op: "decrypt", Status: 503}), mend: clear,
			step: "decrypt", exit: 6, hint: "."},
		{name: "another region", sever: func() { do(kv.Command{Action: kv.VaultSet, Vault: "demo", Region: "northeurope"}) },
			mend: func() { do(kv.Command{Action: kv.VaultSet, Vault: "demo", Region: "westeurope"}) },
			step: "get", exit: 5, hint: "--location"},
		{name: "another permission pair", flags: []string{"--key-vault-permissions", "wrap-unwrap"},
			step: "encrypt", exit: 5, hint: "permit wrapKey"},
		{name: "nothing is broken for good"},
	} {
		t.Run(b.name, func(t *testing.T) { c.check(t, b) })
	}

	// A key that has expired cannot be chosen, but what volumes need of it works.
	do(kv.Command{Action: kv.KeySet, Vault: "demo", Key: "cmk", Expires: time.Now().Add(-time.Hour)})
	out, _, exit := c.run("account", "check")
	if exit != 5 || !regexp.MustCompile(`get +failed .*is expired\n`).MatchString(out) || !regexp.MustCompile(`account key +ok`).MatchString(out) {
		t.Errorf("exit code %d\n%s", exit, out)
	}
	do(kv.Command{Action: kv.KeySet, Vault: "demo", Key: "cmk", NoDates: true})

	// The account's own key needs the version that wrapped it, whatever the
	// newest can do.
	var status checked
	if err := json.Unmarshal([]byte(c.must("account", "check", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	version := status.KeyID[strings.LastIndexByte(status.KeyID, '/')+1:]
	do(kv.Command{Action: kv.KeyRotate, Vault: "demo", Key: "cmk"})
	c.check(t, broken{sever: enable(&no, version), mend: enable(&yes, version),
		step: "account key", exit: 5, hint: "need exactly https://demo.vault.azure.net/keys/cmk/" + version})
	if s := c.must("account", "check"); !strings.Contains(s, "region westeurope") || !strings.Contains(s, "object id") {
		t.Error(s)
	}
}

// names returns two commands to run another one by: the first lets the vault's
// name lead to the endpoint at port 443, the second to nowhere. Each gives it
// files of its own for looking up names.
func names(t *testing.T, endpoint string) (public, none []string) {
	t.Helper()
	alias := fmt.Sprintf("127.77.%d.%d", os.Getpid()>>8&255, os.Getpid()&255) // the machine's others have others
	l, err := net.Listen("tcp", alias+":443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := net.Dial("tcp", endpoint)
				if err != nil {
					return
				}
				defer far.Close()
				go func() { _, _ = io.Copy(far, near); far.Close() }()
				_, _ = io.Copy(near, far)
			}()
		}
	}()
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	resolv := write("resolv.conf", "nameserver 127.78.0.1\noptions timeout:1 attempts:1\n")
	in := func(hosts string) []string {
		return []string{"unshare", "--mount", "sh", "-c", fmt.Sprintf(
			letGo+`mount --bind %s /etc/hosts && mount --bind %s /etc/resolv.conf && exec "$@"`, write("hosts", hosts), resolv), "sh"}
	}
	return in("127.0.0.1 localhost\n" + alias + " demo.vault.azure.net\n"), in("127.0.0.1 localhost\n")
}

// TestAccountCheck_PKCS11_EachLink does the same for a key on a token.
func TestAccountCheck_PKCS11_EachLink(t *testing.T) {
	token := hsmtest.NewToken(t)
	token.AddKey(t, "short", "02", "rsa:1024", "--usage-decrypt")
	c := newHost(t, nil)
	c.must("account", "update", "--pkcs11-uri", token.URI("good"))
	stop(c.state, syscall.SIGTERM)
	for _, b := range []broken{
		{name: "nothing"},
		{name: "no library", flags: []string{"--pkcs11-uri", strings.Replace(token.URI("good"), hsmtest.SoftHSMModule, "/nowhere.so", 1)},
			step: "module", exit: 5, hint: "module-path="},
		{name: "no configuration of the library", env: []string{"SOFTHSM2_CONF=/nowhere.conf"},
			step: "module", exit: 6, hint: "SOFTHSM2_CONF"},
		{name: "token pulled out", sever: func() { token.Remove(t) }, mend: func() { token.Return(t) },
			step: "token", exit: 6, hint: "plugged in"},
		{name: "no PIN file", flags: []string{"--pkcs11-uri", token.URI("good") + ".none"},
			step: "login", exit: 5, hint: "pin-source="},
		{name: "wrong PIN", sever: func() { token.SetPIN(t, "000000") }, mend: func() { token.SetPIN(t, hsmtest.PIN) },
			step: "login", exit: 5, hint: "Correct the PIN"},
		{name: "no such key", flags: []string{"--pkcs11-uri", token.URI("none")},
			step: "get", exit: 5, hint: "list-keys"},
		{name: "short key", flags: []string{"--pkcs11-uri", token.URI("short")},
			step: "get", exit: 5, hint: "2048 bits"},
		{name: "public key may not encrypt", sever: func() { permit(token, "\x04\x06", 0)(t) }, mend: func() { permit(token, "\x04\x06", 0xff)(t) },
			step: "encrypt", exit: 5, hint: "CKA_ENCRYPT"},
		{name: "nothing is broken for good"},
		{name: "another key of the same name", sever: func() {
			token.RemoveKey(t, "01")
			token.AddKey(t, "good", "01", "rsa:2048", "--usage-decrypt")
		}, step: "account key", exit: 5, hint: "need exactly pkcs11:"},
	} {
		t.Run(b.name, func(t *testing.T) { c.check(t, b) })
	}
}
