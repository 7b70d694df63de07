package main_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// trap is an address where nobody of ours may ever turn up. It counts who does.
type trap struct {
	address string
	came    atomic.Int64
}

func newTrap(t *testing.T, address string) *trap {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	trapped := &trap{address: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			trapped.came.Add(1)
			c.Close()
		}
	}()
	return trapped
}

// TestPrivateEndpoint_NobodyGoesElsewhere lives an account's whole life with a
// pinned vault on a host where the vault's name leads to one address and a proxy
// is configured at another, and wants no connection to either: not by the
// daemon, not by commands, not while the endpoint fails.
func TestPrivateEndpoint_NobodyGoesElsewhere(t *testing.T) {
	work := t.TempDir()
	state := filepath.Join(work, "state")
	public, proxy := newTrap(t, "127.77.1.2:443"), newTrap(t, "127.77.1.3:0")
	t.Cleanup(func() { stop(state, syscall.SIGTERM) })

	// The machine's own proxies are not to be mistaken for ours.
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		name, _, _ := strings.Cut(s, "=")
		return strings.HasSuffix(strings.ToUpper(name), "_PROXY")
	})
	env = append(env, "CMKFS_STATE_DIR="+state, "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	for line := range strings.Lines(startEmulator(t, filepath.Join(work, "kv"), env)) {
		env = append(env, strings.TrimSpace(line))
	}
	// A mount namespace of its own has the hosts file in which the vault has
	// its public address, as in the DNS.
	if err := os.WriteFile(filepath.Join(work, "hosts"), []byte("127.0.0.1 localhost\n127.77.1.2 demo.vault.azure.net\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := func(text string, more ...string) {
		t.Helper()
		err := isolated{work: work, flags: syscall.CLONE_NEWNS, env: append(env, more...)}.run("mount --bind hosts /etc/hosts\n" + text)
		stop(state, syscall.SIGTERM)
		if err != nil {
			t.Fatal(err)
		}
	}

	// The traps work: without the pin one is fallen into, and then the other.
	const unpinned = `refused cmkfsd account update --key-uri $KEYVAULT_EMULATOR_KEY_URI --key-vault-ca $KEYVAULT_EMULATOR_CA`
	var proxies []string
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"} {
		proxies = append(proxies, name+"=http://"+proxy.address)
	}
	script("cmkfsd account create --name a\n" + unpinned)
	if public.came.Load() == 0 || proxy.came.Load() != 0 {
		t.Fatalf("without a pin: %d connections to the public address, %d to the proxy", public.came.Load(), proxy.came.Load())
	}
	script(unpinned, proxies...)
	if proxy.came.Load() == 0 {
		t.Fatal("without a pin nobody asks the proxy")
	}
	publicBefore, proxyBefore := public.came.Load(), proxy.came.Load()

	script(`
ctl() { keyvault-emulator ctl --dir kv "$@"; }
state_is() { for i in $(seq 1200); do cmkfsd status -o json | grep -q "\"state\": \"$1\"" && return; sleep 0.05; done; return 1; }
mkdir -p mnt
ctl public demo off
cmkfsd account update --identity-type SystemAssigned
cmkfsd account update --key-uri $KEYVAULT_EMULATOR_KEY_URI --key-vault-ca $KEYVAULT_EMULATOR_CA --key-vault-private-endpoint $KEYVAULT_EMULATOR_PRIVATE --check-interval 1s --check-interval-unhealthy 200ms --outage-grace 10s
cmkfsd account check
cmkfsd account list-keys
cmkfsd volume create --name v
cmkfsd volume mount v mnt
echo hello > mnt/hello
ctl identity volumes --resource-id /volumes
refused cmkfsd account update --identity-type UserAssigned --user-assigned-identity /volumes
ctl grant demo volumes get encrypt decrypt
cmkfsd account update --identity-type UserAssigned --user-assigned-identity /volumes
cmkfsd account renew-credentials
ctl rotate demo cmk
ctl create demo other
sleep 2
cmkfsd account rekey --key-name other
cmkfsd account rotate-key
cmkfsd account transition-to-cmk
cmkfsd volume suspend --all
cmkfsd volume restore-access --all
grep hello mnt/hello
# endpoints that do not work are tried, and nothing else
refused cmkfsd account update --key-vault-private-endpoint 127.0.0.1:1
refused cmkfsd account update --key-vault-private-endpoint $KEYVAULT_EMULATOR_ENDPOINT
refused cmkfsd account update --key-vault-permissions wrap-unwrap
# failures of the endpoint itself
ctl fault refuse
state_is suspended
refused cmkfsd account check
refused cmkfsd account list-keys
refused cmkfsd account renew-credentials
refused cmkfsd volume restore-access --all
ctl clear
ctl fault status --status 503
refused cmkfsd account check
ctl clear
ctl fault black-hole
refused timeout 60 cmkfsd account check
ctl clear
# a question from before that is answered only now is too old for the lease
for i in $(seq 60); do cmkfsd volume restore-access --all && break; sleep 1; done
grep hello mnt/hello
cmkfsd volume unmount v
`, proxies...)
	if n := public.came.Load() - publicBefore; n != 0 {
		t.Errorf("%d connections to the vault's public address", n)
	}
	if n := proxy.came.Load() - proxyBefore; n != 0 {
		t.Errorf("%d connections to the proxy", n)
	}

	// Without the pin again, the name leads where it leads.
	script(`refused cmkfsd account update --key-vault-private-endpoint none`)
	if public.came.Load() == publicBefore {
		t.Error("the pin was not taken away for the trial")
	}
}
