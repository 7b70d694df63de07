package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestVirtualMachine_Identities uses the token endpoint of a virtual machine,
// whose address nobody can choose: in a network of its own, the emulator has it.
func TestVirtualMachine_Identities(t *testing.T) {
	work := t.TempDir()
	state := filepath.Join(work, "state")
	t.Cleanup(func() { stop(state, syscall.SIGTERM) })
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "IDENTITY_") || strings.HasPrefix(s, "AZURE_") || strings.HasPrefix(s, "MSI_")
	})
	env = append(env, "CMKFS_STATE_DIR="+state, "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	network, err := ownNetwork(work, env)
	if err != nil {
		t.Fatal(err)
	}
	err = network.run(`
ctl() { keyvault-emulator ctl --dir kv "$@"; }
field() { sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" | head -n 1; }
cmkfsd account create --name a
trap 'kill $emulator; wait $emulator' EXIT

# Nobody answers at the address yet: saved, with a warning, and in good time.
timeout 60 cmkfsd account update --identity-type SystemAssigned 2> warning
grep "token endpoint does not answer" warning

keyvault-emulator --dir kv --imds 169.254.169.254:80 & emulator=$!
for i in $(seq 500); do ctl env > kv.env && grep -q KEY_URI kv.env && break; sleep 0.01; done
. ./kv.env
vault="--key-vault-private-endpoint $KEYVAULT_EMULATOR_PRIVATE --key-vault-ca $KEYVAULT_EMULATOR_CA"
cmkfsd account renew-credentials
cmkfsd account update --key-uri $KEYVAULT_EMULATOR_KEY_URI $vault
cmkfsd account check

# One user-assigned identity by each of its names.
ctl identity volumes --resource-id /subscriptions/s/userAssignedIdentities/volumes > identity
ctl grant demo volumes get encrypt decrypt
ctl revoke demo system
for id in $(field clientId < identity) $(field objectId < identity) /subscriptions/s/userAssignedIdentities/volumes; do
	cmkfsd account update --identity-type UserAssigned --user-assigned-identity $id -o json > shown
	grep "\"principalId\": \"$(field objectId < identity)\"" shown
	cmkfsd account renew-credentials
done
refused cmkfsd account update --identity-type UserAssigned --user-assigned-identity 00000000-0000-0000-0000-000000000000
refused cmkfsd account update --identity-type SystemAssigned

# An endpoint in trouble costs a bounded time, not the minutes that its SDK
# would try.
for status in 410 429 500; do
	ctl fault status --op token --status $status
	refused timeout 60 cmkfsd account renew-credentials
	ctl clear
done
ctl fault black-hole --op token
refused timeout 60 cmkfsd account renew-credentials 2> silent
grep "token endpoint does not answer" silent
ctl clear
cmkfsd account renew-credentials
`)
	stop(state, syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
}
