package account_test

import (
	"fmt"
	"testing"
	"time"

	"cmkfs/account"
)

// answersOfKey are the events of a check's answer.
var answersOfKey = []account.EventKind{
	account.EventOK, account.EventExpired, account.EventDenied, account.EventNetworkDenied,
	account.EventThrottled, account.EventUnreachable, account.EventMisconfigured,
}

// TestNext_Restart_EveryState: a daemon that starts opens nothing before the key
// has answered, whatever was stored, however often it is killed, and whatever
// the clock says by then; what was taken away stays so, what was open comes back.
func TestNext_Restart_EveryState(t *testing.T) {
	for _, recovery := range []string{account.RecoveryManual, account.RecoveryAutomatic} {
		for _, s := range account.States {
			for _, operator := range []bool{false, true} {
				for _, away := range []time.Duration{0, time.Second, 1000 * time.Hour, -1000 * time.Hour} {
					if operator && s != account.StateSuspending && s != account.StateSuspended {
						continue
					}
					name := fmt.Sprintf("%s/%s/operator=%v/%s", recovery, s, operator, away)
					p := account.DefaultPolicy()
					p.Recovery = recovery
					stored := leaseIn(s)
					stored.Operator = operator
					taken := s == account.StateSuspending || s == account.StateSuspended
					comesBack := !taken || recovery == account.RecoveryAutomatic && !operator
					for _, answer := range answersOfKey {
						restart(t, name+"/"+string(answer), stored, p, t0.Add(away), answer, comesBack)
					}
				}
			}
		}
	}
}

// restart starts a daemon three times while the key answers as given, then once
// more with the key.
func restart(t *testing.T, name string, l account.Lease, p account.Policy, now time.Time, answer account.EventKind, comesBack bool) {
	good := answer == account.EventOK || answer == account.EventExpired
	operator := l.Operator
	for range 3 {
		var effects []account.Effect
		l, effects = account.Next(l, account.LeaseEvent{Kind: account.EventStart}, now, p)
		if l.Open() || len(effects) != 1 || effects[0].Kind != account.EffectCheck {
			t.Errorf("%s: started as %s, %v", name, l.State, effects)
		}
		if good {
			continue // killed before the answer
		}
		for range 3 {
			now = now.Add(time.Second)
			l, effects = account.Next(l, account.LeaseEvent{Kind: answer, Asked: now, Text: "text"}, now, p)
			if l.State != account.StateSuspended || len(effects) != 0 || l.Operator != operator {
				t.Errorf("%s: without the key %s, %v", name, l.State, effects)
			}
		}
	}
	now = now.Add(time.Second)
	l, effects := account.Next(l, account.LeaseEvent{Kind: account.EventOK, Asked: now}, now, p)
	opened := false
	for _, e := range effects {
		opened = opened || e.Kind == account.EffectRestore
	}
	if opened != comesBack || l.Open() != comesBack || l.Operator != operator {
		t.Errorf("%s: with the key %s, %v; comes back %v", name, l.State, effects, comesBack)
	}
}

// TestNext_ClockJumps_EveryState: whatever happens first after the clock has gone
// on by itself (the host slept, the process stood still), nothing is open beyond
// the deadline; and a jump that ends before it takes nothing away.
func TestNext_ClockJumps_EveryState(t *testing.T) {
	p := account.DefaultPolicy()
	for _, s := range account.States {
		for _, k := range account.EventKinds {
			if k == account.EventStart {
				continue // TestNext_Restart_EveryState
			}
			for _, jump := range []time.Duration{-time.Nanosecond, 0, time.Second, 1000 * time.Hour} {
				l := leaseIn(s)
				open, now := l.Open(), l.Expires.Add(jump)
				got, effects := account.Next(l, account.LeaseEvent{Kind: k, Asked: t0.Add(time.Minute), Text: "text"}, now, p)
				if got.Open() && !now.Before(got.Expires) {
					t.Errorf("%s + %s, %s after the deadline: %s until %v", s, k, jump, got.State, got.Expires)
				}
				suspended := false
				for _, e := range effects {
					suspended = suspended || e.Kind == account.EffectSuspend
				}
				if open && jump >= 0 && !suspended {
					t.Errorf("%s + %s, %s after the deadline: %s, %v", s, k, jump, got.State, effects)
				}
				if k == account.EventTick && jump < 0 && suspended {
					t.Errorf("%s: suspended before the deadline", s)
				}
			}
		}
	}
}
