package keyagent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/keyagent"
)

// steps is what a call asked of the key: "get encrypt!denied/KeyDisabled".
func steps(c keyagent.Call) string {
	var all []string
	for _, o := range c.Operations {
		s := o.Op
		if o.Kind != "" {
			s += "!" + string(o.Kind) + "/" + o.Reason
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

// TestClient_Observed_EveryOperation asks a vault in all ways and wants every
// single operation reported, with the version of the key that did it and who
// asked.
func TestClient_Observed_EveryOperation(t *testing.T) {
	e, key := vaultKey(t)
	var calls []keyagent.Call
	c := client(t, 0).Observed(func(c keyagent.Call) { calls = append(calls, c) })
	last := func() keyagent.Call { return calls[len(calls)-1] }

	info, err := c.Examine(t.Context(), key)
	if got := steps(last()); err != nil || got != "get encrypt decrypt" || last().Op != "examine" || last().Took <= 0 {
		t.Errorf("examine: %s, %v: %+v", got, err, last())
	}
	get := last().Operations[0]
	if get.KeyID != info.KeyID || get.PrincipalID == "" || get.PrincipalID != info.PrincipalID || get.Took <= 0 {
		t.Errorf("get: %+v, the key is %+v", get, info)
	}
	a, err := c.NewAEK(t.Context(), key, "a")
	if got := steps(last()); err != nil || got != "encrypt decrypt" || last().Operations[1].KeyID != a.Wrapped.KeyID {
		t.Errorf("new key: %s, %v", got, err)
	}
	vol := [16]byte{7}
	v, err := c.NewVEK(t.Context(), key, "a", a, vol)
	if got := steps(last()); err != nil || got != "decrypt" {
		t.Errorf("new volume: %s, %v", got, err)
	}
	if _, err := released(t, c, key, "a", a, vol, v); err != nil || steps(last()) != "decrypt" {
		t.Errorf("release: %s, %v", steps(last()), err)
	}
	if _, err := c.Check(t.Context(), key, "a", a); err != nil || steps(last()) != "decrypt get" {
		t.Errorf("check: %s, %v", steps(last()), err)
	}
	if _, err := c.ListKeys(t.Context(), key); err != nil || steps(last()) != "list" {
		t.Errorf("list: %s, %v", steps(last()), err)
	}

	no := false
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &no})
	_, err = c.Check(t.Context(), key, "a", a)
	if got := steps(last()); got != "decrypt!denied/KeyDisabled" || !errors.Is(last().Err, err) || last().Operations[0].KeyID != a.Wrapped.KeyID {
		t.Errorf("disabled: %s: %+v", got, last())
	}
	do(t, e, emulator.Command{Action: emulator.Grant, Vault: "demo", Identity: emulator.SystemIdentity, Permissions: []string{"wrapKey", "unwrapKey"}})
	yes := true
	do(t, e, emulator.Command{Action: emulator.KeySet, Vault: "demo", Key: "cmk", Enabled: &yes})
	wrap := *key.Azure
	wrap.Permissions = azure.WrapUnwrap
	if _, err := c.Examine(t.Context(), hsm.Config{Source: key.Source, Azure: &wrap}); err != nil || steps(last()) != "get wrapKey unwrapKey" {
		t.Errorf("wrap-unwrap: %s, %v", steps(last()), err)
	}
}

// TestClient_Observed_NoAnswer: a call that the agent never answered is reported
// too.
func TestClient_Observed_NoAnswer(t *testing.T) {
	e, key := vaultKey(t)
	do(t, e, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: emulator.FaultBlackHole}})
	var calls []keyagent.Call
	c := client(t, 0).Observed(func(c keyagent.Call) { calls = append(calls, c) })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Examine(ctx, key)
	if err == nil || len(calls) != 1 || calls[0].Err == nil || calls[0].Key.Azure.KeyName != "cmk" {
		t.Errorf("%v: %+v", err, calls)
	}
}
