package supervisor_test

import (
	"os"
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/internal/loadtest"
	"cmkfs/supervisor/api"
)

// TestIdentity_SwitchedUnderLoad: programs do not notice that the account
// becomes somebody else, not even when who it was is no longer permitted, nor
// that the vault is reached at another address.
func TestIdentity_SwitchedUnderLoad(t *testing.T) {
	v := newVaultRig(t)
	user := v.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "volumes"}).(*emulator.Identity)
	identities := []struct {
		name string
		account.Identity
	}{
		{"volumes", account.Identity{Type: account.IdentityUserAssigned, UserAssignedIdentity: user.ResourceID}},
		{emulator.SystemIdentity, account.Identity{Type: account.IdentitySystemAssigned}},
	}
	endpoints := []string{v.e.PrivateEndpoint(), v.e.Endpoint()}
	loadtest.Prove(t, func(int) loadtest.Report {
		return loadtest.Measure(t, v.mount, func() {
			for i := range identities {
				to, from := identities[i], identities[1-i]
				v.grant(t, to.name)
				if _, err := v.UpdateAccount(v.ctx, "acct", account.Change{Identity: &to.Identity}); err != nil {
					t.Error(err)
				}
				v.do(t, emulator.Command{Action: emulator.Revoke, Vault: "demo", Identity: from.name})
				time.Sleep(1500 * time.Millisecond) // a check as the new one
				if _, err := v.RenewCredentials(v.ctx, "acct"); err != nil {
					t.Error(err)
				}
				key := v.key()
				key.Azure.PrivateEndpoint = endpoints[i]
				if _, err := v.UpdateAccount(v.ctx, "acct", account.Change{Key: key}); err != nil {
					t.Error(err)
				}
			}
		})
	})
	if a := v.account(); a.State != string(account.StateOnline) || v.volume().Restarts != 0 {
		t.Errorf("afterwards: %+v", a)
	}
}

// TestIdentity_DaemonKilledWhileSwitching: the account is one or the other
// afterwards, and opens its volumes.
func TestIdentity_DaemonKilledWhileSwitching(t *testing.T) {
	v := newVaultRig(t)
	if err := os.WriteFile(v.path("file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Unmount(v.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	user := v.do(t, emulator.Command{Action: emulator.IdentityAdd, Identity: "volumes"}).(*emulator.Identity)
	v.grant(t, "volumes")
	to := []account.Identity{
		{Type: account.IdentityUserAssigned, UserAssignedIdentity: user.ResourceID},
		{Type: account.IdentitySystemAssigned},
	}
	for i := range 12 {
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(time.Duration(i*10) * time.Millisecond)
			v.kill()
		}()
		_, err := v.UpdateAccount(v.ctx, "acct", account.Change{Identity: &to[i%2]})
		<-killed
		v.Close()
		d, derr := account.Open(v.dir)
		if derr != nil {
			t.Fatal(derr)
		}
		a, derr := d.Account("acct")
		if derr != nil {
			t.Fatalf("killed after %d ms: %v", i*10, derr)
		}
		if k := a.Current().Key.Azure; k.IdentityType != a.Identity.Type || k.UserAssignedIdentity != a.Identity.UserAssignedIdentity {
			t.Errorf("killed after %d ms (%v): the account is %+v, its key is asked for as %+v", i*10, err, a.Identity, k)
		}
		if err == nil && a.Identity.Type != to[i%2].Type {
			t.Errorf("killed after %d ms: the switch was answered, and is %+v", i*10, a.Identity)
		}
		v.daemon = startDaemon(t, v.dir)
		v.mustMount()
		if b, err := os.ReadFile(v.path("file")); err != nil || string(b) != "content" {
			t.Fatalf("killed after %d ms: %q, %v", i*10, b, err)
		}
		if _, err := v.Unmount(v.ctx, "acct", "vol", api.Unmount{}); err != nil {
			t.Fatal(err)
		}
	}
}
