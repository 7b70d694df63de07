package drill

import (
	"context"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
)

// needsEmulator is why a drill of the vault itself has its own rig.
const needsEmulator = "the vault itself is changed: needs the emulator"

// The emulated vault and its key.
const (
	vaultName = "drill"
	keyName   = "cmk"
)

// vaultDrills are what a vault, its owner or its front end do.
func vaultDrills() []Drill {
	do := func(c emulator.Command) func(context.Context, *scene) error {
		return func(_ context.Context, s *scene) error { return s.vault(c) }
	}
	fault := func(f emulator.Fault) func(context.Context, *scene) error {
		return do(emulator.Command{Action: emulator.FaultAdd, Fault: &f})
	}
	clear := do(emulator.Command{Action: emulator.FaultClear})
	yes, no := true, false
	enable := emulator.Command{Action: emulator.KeySet, Key: keyName, Enabled: &yes}
	disable := emulator.Command{Action: emulator.KeySet, Key: keyName, Enabled: &no}
	all := []Drill{
		{
			Name: "vault-5xx", Title: "the vault answers 503 to everything", Outcome: Stops, Class: hsm.KindUnreachable,
			inject: fault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503}), heal: clear,
		}, {
			Name: "vault-throttled", Title: "the vault answers 429 and asks for patience", Outcome: Stops, Class: hsm.KindThrottled,
			inject: fault(emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 1}), heal: clear,
		}, {
			Name: "token-endpoint-down", Title: "the identity gets no token: its endpoint answers 500", Outcome: Stops, Class: hsm.KindUnreachable,
			inject: fault(emulator.Fault{Kind: emulator.FaultStatus, Op: "token", Status: 500}), heal: clear,
		}, {
			Name: "vault-permission-removed", Title: "the identity may not decrypt any more", Outcome: Stops, Class: hsm.KindDenied,
			inject: do(emulator.Command{Action: emulator.Revoke, Identity: emulator.SystemIdentity, Permissions: []string{"decrypt"}}),
			heal:   do(emulator.Command{Action: emulator.Grant, Identity: emulator.SystemIdentity, Permissions: []string{"decrypt"}}),
		}, {
			Name: "key-disabled", Title: "the key is disabled in the vault", Outcome: Stops, Class: hsm.KindDenied, Errno: "EKEYREVOKED",
			inject: do(disable), heal: do(enable),
		}, {
			Name: "key-deleted", Title: "the key is deleted, and recovered later", Outcome: Stops, Class: hsm.KindDenied, Errno: "EKEYREVOKED",
			inject: do(emulator.Command{Action: emulator.KeyDelete, Key: keyName}), heal: do(emulator.Command{Action: emulator.KeyRecover, Key: keyName}),
		}, {
			Name: "key-expired", Title: "the key expires, which must not end access", Outcome: GoesOn, Hold: 5 * time.Second,
			inject: func(_ context.Context, s *scene) error {
				return s.vault(emulator.Command{Action: emulator.KeySet, Key: keyName, Expires: time.Now().Add(-time.Minute)})
			}, heal: do(emulator.Command{Action: emulator.KeySet, Key: keyName, NoDates: true}),
		}, {
			Name: "vault-firewall-on", Title: "the vault's firewall refuses this host", Outcome: Stops, Class: hsm.KindNetworkDenied,
			inject: do(emulator.Command{Action: emulator.Firewall, On: true}), heal: do(emulator.Command{Action: emulator.Firewall}),
		}, {
			Name: "vault-wrong-key", Title: "the vault decrypts to something else than the account's key", Outcome: Stops, Class: hsm.KindMisconfigured,
			inject: fault(emulator.Fault{Kind: emulator.FaultWrongKey, Op: "decrypt"}), heal: clear,
		}, {
			Name: "key-flapping", Title: "the key is disabled and enabled every second, with automatic recovery: no storm of suspensions", Outcome: Stops,
			Class: hsm.KindDenied, Errno: "EKEYREVOKED", Recovery: account.RecoveryAutomatic, Hold: 14 * time.Second, Suspensions: 4,
			inject: func(ctx context.Context, s *scene) error {
				return s.flap(ctx, 1500*time.Millisecond, func() error { return s.vault(disable) }, func() error { return s.vault(enable) })
			}, heal: do(enable),
		},
	}
	for i := range all {
		all[i].Source, all[i].Own = Vault, needsEmulator
	}
	return all
}

// vault changes the rig's vault.
func (s *scene) vault(c emulator.Command) error {
	c.Vault = vaultName
	_, err := s.emulator.Do(c)
	return err
}
