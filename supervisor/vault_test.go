package supervisor_test

import (
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
)

// vaultRig is a rig whose account has the key "cmk" of the emulated vault "demo",
// as the system-assigned identity. The key is asked every second.
type vaultRig struct {
	*rig
	e *emulator.Emulator
}

// newVaultRig starts a vault in this process and a daemon, and mounts the volume
// "vol", which is under the vault's key.
func newVaultRig(t *testing.T) *vaultRig {
	t.Helper()
	v := startVault(t)
	v.useKey()
	v.addVolume()
	return v
}

// startVault starts a vault in this process and a daemon whose account does not
// use it yet.
func startVault(t *testing.T) *vaultRig {
	t.Helper()
	e, err := emulator.Start(emulator.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	for name, value := range e.Env() {
		t.Setenv(name, value)
	}
	v := &vaultRig{e: e}
	v.do(t, emulator.Command{Action: emulator.VaultCreate, Vault: "demo"})
	v.do(t, emulator.Command{Action: emulator.KeyCreate, Vault: "demo", Key: "cmk"})
	v.grant(t, emulator.SystemIdentity)
	v.rig = newRigWithoutVolume(t)
	return v
}

// useKey makes the vault's key the account's.
func (v *vaultRig) useKey() {
	v.t.Helper()
	if _, err := v.UpdateAccount(v.ctx, "acct", account.Change{Key: v.key(), Policy: &account.PolicyChange{
		CheckInterval: account.Duration(time.Second), CheckIntervalUnhealthy: account.Duration(200 * time.Millisecond),
	}}); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vaultRig) key() *hsm.Config {
	key := v.named("cmk", "")
	return &key
}

// do changes something at the vault.
func (v *vaultRig) do(t *testing.T, c emulator.Command) any {
	t.Helper()
	r, err := v.e.Do(c)
	if err != nil {
		t.Fatalf("%s: %v", c.Action, err)
	}
	return r
}

func (v *vaultRig) grant(t *testing.T, identity string) {
	t.Helper()
	v.do(t, emulator.Command{Action: emulator.Grant, Vault: "demo", Identity: identity, Permissions: []string{"get", "encrypt", "decrypt"}})
}

// named is a key of the vault.
func (v *vaultRig) named(name, version string) hsm.Config {
	return hsm.Config{Source: hsm.SourceKeyVault, Azure: &hsm.AzureConfig{
		VaultURI: "https://demo.vault.azure.net/", KeyName: name, KeyVersion: version, PrivateEndpoint: v.e.Endpoint(), CAFile: v.e.CA(),
	}}
}

// delay makes every operation of the vault take a while.
func (v *vaultRig) delay(t *testing.T, d time.Duration) {
	t.Helper()
	for _, op := range []string{"get", "encrypt", "decrypt"} {
		v.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultDelay, Op: op, Delay: d}})
	}
}

// undelay ends all faults.
func (v *vaultRig) undelay(t *testing.T) {
	t.Helper()
	v.do(t, emulator.Command{Action: emulator.FaultClear})
}

// stored is the account as it is on disk.
func (v *vaultRig) stored() *account.Account {
	v.t.Helper()
	d, err := account.Open(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	a, err := d.Account("acct")
	if err != nil {
		v.t.Fatal(err)
	}
	return a
}

// events returns the account's events of a kind.
func (v *vaultRig) events(kind string) []account.Event {
	v.t.Helper()
	d, err := account.Open(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	var all []account.Event
	if err := d.Events("acct", 0, func(e account.Event) error {
		if e.Kind == kind {
			all = append(all, e)
		}
		return nil
	}); err != nil {
		v.t.Fatal(err)
	}
	return all
}
