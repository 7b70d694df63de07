package keyagent_test

import (
	"bytes"
	"context"
	"syscall"
	"testing"
	"time"

	"cmkfs/crypto"
	"cmkfs/hsm"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/keyagent"
)

// TestClient_Reseal moves a volume's key from every kind of key to every kind:
// a rotation within one, a transition between two.
func TestClient_Reseal(t *testing.T) {
	c := client(t, 0)
	keys := sources(t)
	under := map[string][]keyagent.Under{}
	for name, key := range keys {
		for _, id := range []string{name + "-1", name + "-2"} {
			a, err := c.NewAEK(t.Context(), key, id)
			if err != nil {
				t.Fatal(err)
			}
			under[name] = append(under[name], keyagent.Under{Key: key, AEKID: id, AEK: a})
		}
	}
	for source := range keys {
		for target := range keys {
			t.Run(source+" to "+target, func(t *testing.T) {
				from, to, vol := under[source][0], under[target][1], [16]byte{9}
				v, err := c.NewVEK(t.Context(), from.Key, from.AEKID, from.AEK, vol)
				if err != nil {
					t.Fatal(err)
				}
				want, err := released(t, c, from.Key, from.AEKID, from.AEK, vol, v)
				if err != nil {
					t.Fatal(err)
				}
				moved, err := c.Reseal(t.Context(), from, to, vol, v)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Equal(moved.Sealed, v.Sealed) || !bytes.Equal(moved.Commitment, v.Commitment) {
					t.Error("not sealed anew, or committed to another key")
				}
				got, err := released(t, c, to.Key, to.AEKID, to.AEK, vol, moved)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("under the new key: %d bytes, %v", len(got), err)
				}
				// Each seal is good for its own account key and volume alone.
				if _, err := released(t, c, from.Key, from.AEKID, from.AEK, vol, moved); err == nil {
					t.Error("the old account key opens the new seal")
				}
				if _, err := released(t, c, to.Key, to.AEKID, to.AEK, [16]byte{10}, moved); err == nil {
					t.Error("the new seal is good for another volume")
				}
			})
		}
	}
}

func TestClient_Reseal_Refuses(t *testing.T) {
	c := client(t, 0)
	e, vault := vaultKey(t)
	platform := platformKey(t)
	make := func(key hsm.Config, id string) keyagent.Under {
		t.Helper()
		a, err := c.NewAEK(t.Context(), key, id)
		if err != nil {
			t.Fatal(err)
		}
		return keyagent.Under{Key: key, AEKID: id, AEK: a}
	}
	from, to := make(platform, "from"), make(vault, "to")
	vol := [16]byte{9}
	v, err := c.NewVEK(t.Context(), from.Key, from.AEKID, from.AEK, vol)
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(from, to keyagent.Under, vol [16]byte, v keyagent.VEK) error {
		_, err := c.Reseal(t.Context(), from, to, vol, v)
		return err
	}
	wrong := to
	wrong.AEK.Commitment = from.AEK.Commitment
	want(t, reseal(from, wrong, vol, v), hsm.KindMisconfigured, "WrongKeyMaterial")
	want(t, reseal(from, to, [16]byte{10}, v), hsm.KindMisconfigured, "BadVEK")
	want(t, reseal(to, from, vol, v), hsm.KindMisconfigured, "BadVEK")
	want(t, reseal(from, to, vol, keyagent.VEK{Sealed: v.Sealed, Commitment: to.AEK.Commitment}), hsm.KindMisconfigured, "BadVEK")
	want(t, reseal(from, keyagent.Under{Key: hsm.Config{Source: "nonsense"}}, vol, v), hsm.KindMisconfigured, "KeySource")
	no := false
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &no})
	want(t, reseal(from, to, vol, v), hsm.KindDenied, "KeyDisabled")
}

// TestClient_Reseal_KilledAgent: an agent that dies in the middle gives nothing,
// and the next one does it.
func TestClient_Reseal_KilledAgent(t *testing.T) {
	for name, key := range sources(t) {
		t.Run(name, func(t *testing.T) {
			c := client(t, 0)
			var both [2]keyagent.Under
			for i, id := range []string{"a", "b"} {
				a, err := c.NewAEK(t.Context(), key, id)
				if err != nil {
					t.Fatal(err)
				}
				both[i] = keyagent.Under{Key: key, AEKID: id, AEK: a}
			}
			vol := [16]byte{3}
			v, err := c.NewVEK(t.Context(), key, "a", both[0].AEK, vol)
			if err != nil {
				t.Fatal(err)
			}
			pid := c.PID()
			halt(t, pid)
			result := make(chan error)
			go func() {
				_, err := c.Reseal(context.WithoutCancel(t.Context()), both[0], both[1], vol, v)
				result <- err
			}()
			eventually(t, func() bool { return c.Pending() == 1 })
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			want(t, <-result, hsm.KindUnreachable, "AgentDied")
			moved, err := c.Reseal(t.Context(), both[0], both[1], vol, v)
			if err != nil {
				t.Fatal(err)
			}
			got, err := released(t, c, key, "b", both[1].AEK, vol, moved)
			if vek, kerr := crypto.KeyFromBytes(got); err != nil || kerr != nil || !crypto.CheckCommit(vek, vol[:], v.Commitment) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// TestClient_Reseal_VaultSilent: a vault that does not answer is an error within
// the time a call has.
func TestClient_Reseal_VaultSilent(t *testing.T) {
	e, vault := vaultKey(t)
	c := client(t, 2*time.Second)
	platform := platformKey(t)
	a, err := c.NewAEK(t.Context(), platform, "a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.NewAEK(t.Context(), vault, "b")
	if err != nil {
		t.Fatal(err)
	}
	vol := [16]byte{4}
	v, err := c.NewVEK(t.Context(), platform, "a", a, vol)
	if err != nil {
		t.Fatal(err)
	}
	do(t, e, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultBlackHole}})
	_, err = c.Reseal(t.Context(), keyagent.Under{Key: platform, AEKID: "a", AEK: a}, keyagent.Under{Key: vault, AEKID: "b", AEK: b}, vol, v)
	if hsm.KindOf(err) != hsm.KindUnreachable {
		t.Errorf("got %v", err)
	}
}
