package account_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// leaseIn returns a plausible lease of each state, one minute after a success.
func leaseIn(s account.State) account.Lease {
	l := account.Lease{
		State: s, Since: t0, KeyGood: true, LastCheck: t0, LastSuccess: t0,
		Expires: t0.Add(10 * time.Minute), NextCheck: t0.Add(time.Minute),
	}
	switch s {
	case account.StateDegraded:
		l.KeyGood, l.Reason, l.Cause = false, "no answer", account.EventUnreachable
	case account.StateSuspending, account.StateSuspended:
		l.KeyGood, l.Denials, l.Reason, l.Code, l.Cause = false, 2, "disabled", "KeyDisabled", account.EventDenied
	case account.StateRestoring:
		l.Opening = true
	}
	return l
}

// TestNext_EveryStateAndEvent pins the whole table: the state and the effects
// that follow from every state and event, one minute after the last success.
func TestNext_EveryStateAndEvent(t *testing.T) {
	const (
		online, degraded, suspending, suspended, restoring = account.StateOnline, account.StateDegraded, account.StateSuspending, account.StateSuspended, account.StateRestoring
		check, extend, suspend                             = account.EffectCheck, account.EffectExtend, account.EffectSuspend
	)
	type result struct {
		to      account.State
		effects []account.EffectKind
	}
	to := func(s account.State, e ...account.EffectKind) result { return result{s, e} }
	want := map[account.EventKind][5]result{
		//                              online                  degraded                 suspending        suspended                restoring
		account.EventStart:           {to(restoring, check), to(restoring, check), to(suspended, check), to(suspended, check), to(restoring, check)},
		account.EventOK:              {to(online, extend), to(online, extend), to(suspending), to(suspended), to(restoring, extend)},
		account.EventExpired:         {to(online, extend), to(online, extend), to(suspending), to(suspended), to(restoring, extend)},
		account.EventDenied:          {to(degraded), to(degraded), to(suspending), to(suspended), to(restoring)},
		account.EventNetworkDenied:   {to(degraded), to(degraded), to(suspending), to(suspended), to(restoring)},
		account.EventThrottled:       {to(degraded), to(degraded), to(suspending), to(suspended), to(restoring)},
		account.EventUnreachable:     {to(degraded), to(degraded), to(suspending), to(suspended), to(restoring)},
		account.EventMisconfigured:   {to(degraded), to(degraded), to(suspending), to(suspended), to(restoring)},
		account.EventUnanswered:      {to(degraded), to(degraded), to(suspending), to(suspended), to(restoring)},
		account.EventTick:            {to(online, check), to(degraded, check), to(suspending, check), to(suspended, check), to(restoring, check)},
		account.EventPolicy:          {to(online, extend), to(degraded, extend), to(suspending), to(suspended), to(restoring, extend)},
		account.EventOperatorSuspend: {to(suspending, suspend), to(suspending, suspend), to(suspending), to(suspending, suspend), to(suspending, suspend)},
		account.EventOperatorRestore: {to(online), to(degraded, check), to(suspending), to(restoring, check), to(restoring)},
		account.EventDrained:         {to(online), to(degraded), to(suspended), to(suspended), to(restoring)},
		account.EventRestored:        {to(online), to(degraded), to(suspending), to(suspended), to(online)},
		account.EventRestoreFailed:   {to(online), to(degraded), to(suspending), to(suspended), to(suspending, suspend)},
	}
	if len(want) != len(account.EventKinds) || len(account.Table) != len(account.States) {
		t.Fatalf("%d events expected, %d known; %d states known, %d in the table", len(want), len(account.EventKinds), len(account.States), len(account.Table))
	}
	now := t0.Add(time.Minute)
	for i, s := range account.States {
		for _, k := range account.EventKinds {
			ev := account.LeaseEvent{Kind: k, Asked: now, Text: "text"}
			l, effects := account.Next(leaseIn(s), ev, now, account.DefaultPolicy())
			var kinds []account.EffectKind
			for _, e := range effects {
				kinds = append(kinds, e.Kind)
			}
			if w := want[k][i]; l.State != w.to || !slices.Equal(kinds, w.effects) {
				t.Errorf("%s + %s: %s %v, want %s %v", s, k, l.State, kinds, w.to, w.effects)
			}
			if l.NextAction(account.DefaultPolicy()) == "" {
				t.Errorf("%s + %s: nothing to do next", s, k)
			}
		}
	}
}

// play applies events, each a while after the one before.
func play(l account.Lease, p account.Policy, now *time.Time, gap time.Duration, kinds ...account.EventKind) (account.Lease, []account.Effect) {
	var effects []account.Effect
	for _, k := range kinds {
		*now = now.Add(gap)
		l, effects = account.Next(l, account.LeaseEvent{Kind: k, Asked: *now, Text: string(k)}, *now, p)
	}
	return l, effects
}

func TestNext_Scenarios(t *testing.T) {
	manual := account.DefaultPolicy()
	automatic := account.DefaultPolicy()
	automatic.Recovery = account.RecoveryAutomatic
	const (
		ok, denied, gone = account.EventOK, account.EventDenied, account.EventUnreachable
		lock, restore    = account.EventOperatorSuspend, account.EventOperatorRestore
		drained          = account.EventDrained
	)
	for name, c := range map[string]struct {
		from   account.State
		policy account.Policy
		gap    time.Duration
		events []account.EventKind
		want   account.State
	}{
		"one denial is not enough":           {account.StateOnline, manual, time.Second, []account.EventKind{denied}, account.StateDegraded},
		"a second denial is":                 {account.StateOnline, manual, time.Second, []account.EventKind{denied, denied}, account.StateSuspending},
		"an outage between does not excuse":  {account.StateOnline, manual, time.Second, []account.EventKind{denied, gone, denied}, account.StateSuspending},
		"a success between does":             {account.StateOnline, manual, time.Second, []account.EventKind{denied, ok, denied}, account.StateDegraded},
		"an outage within the grace":         {account.StateOnline, manual, time.Minute, []account.EventKind{gone, gone, gone, ok}, account.StateOnline},
		"an outage beyond the grace":         {account.StateOnline, manual, 4 * time.Minute, []account.EventKind{gone, gone, gone}, account.StateSuspending},
		"good news after the deadline":       {account.StateOnline, manual, 10 * time.Minute, []account.EventKind{ok}, account.StateSuspending},
		"manual: success does not restore":   {account.StateSuspended, manual, time.Minute, []account.EventKind{ok, ok}, account.StateSuspended},
		"manual: the operator does":          {account.StateSuspended, manual, time.Minute, []account.EventKind{restore, ok, account.EventRestored}, account.StateOnline},
		"the operator without the key":       {account.StateSuspended, manual, time.Minute, []account.EventKind{restore, denied}, account.StateSuspended},
		"restore asked while draining":       {account.StateSuspending, manual, time.Second, []account.EventKind{restore, drained, ok, account.EventRestored}, account.StateOnline},
		"and taken back":                     {account.StateSuspending, manual, time.Second, []account.EventKind{restore, lock, drained, drained}, account.StateSuspended},
		"automatic: success restores":        {account.StateSuspended, automatic, time.Minute, []account.EventKind{ok, account.EventRestored}, account.StateOnline},
		"automatic: not against an operator": {account.StateOnline, automatic, time.Minute, []account.EventKind{lock, drained, ok, ok}, account.StateSuspended},
		"key lost while restoring":           {account.StateSuspended, automatic, time.Second, []account.EventKind{ok, denied, denied}, account.StateSuspending},
		"restart keeps a suspension":         {account.StateSuspended, manual, time.Second, []account.EventKind{account.EventStart, ok}, account.StateSuspended},
		"restart in the middle of draining":  {account.StateSuspending, manual, time.Second, []account.EventKind{account.EventStart, ok}, account.StateSuspended},
		"restart opens what was open":        {account.StateDegraded, manual, time.Second, []account.EventKind{account.EventStart, ok, account.EventRestored}, account.StateOnline},
		"start during an outage":             {account.StateOnline, manual, time.Second, []account.EventKind{account.EventStart, gone}, account.StateSuspended},
		"which then ends":                    {account.StateOnline, manual, time.Second, []account.EventKind{account.EventStart, gone, ok, account.EventRestored}, account.StateOnline},
		"degraded while workers start":       {account.StateSuspended, automatic, time.Second, []account.EventKind{ok, gone, account.EventRestored}, account.StateDegraded},
	} {
		now := t0
		if got, _ := play(leaseIn(c.from), c.policy, &now, c.gap, c.events...); got.State != c.want {
			t.Errorf("%s: %s, want %s", name, got.State, c.want)
		}
	}
}

func TestNext_SuspendErrno(t *testing.T) {
	for _, c := range []struct {
		kind     account.EventKind
		code     string
		policy   string
		operator bool
		want     string
	}{
		{account.EventDenied, "KeyDisabled", "ENOKEY", false, "EKEYREVOKED"},
		{account.EventDenied, "KeyExpired", "ENOKEY", false, "EKEYEXPIRED"},
		{account.EventDenied, "AccessDenied", "ENOKEY", false, "ENOKEY"},
		{account.EventDenied, "KeyDisabled", "EIO", false, "EIO"},
		{account.EventOperatorSuspend, "", "ENOKEY", true, "ENOKEY"},
	} {
		p := account.DefaultPolicy()
		p.SuspendErrno = c.policy
		l := leaseIn(account.StateDegraded)
		l.Denials = 1
		_, effects := account.Next(l, account.LeaseEvent{Kind: c.kind, Code: c.code, Asked: t0}, t0, p)
		if len(effects) != 1 || effects[0].Errno != c.want || effects[0].Operator != c.operator {
			t.Errorf("%+v: %+v", c, effects)
		}
	}
}

func TestNext_StaleFailureDoesNotAnswerTheOperator(t *testing.T) {
	p := account.DefaultPolicy()
	l := leaseIn(account.StateSuspended)
	l.NextCheck = time.Time{} // a check is under way since t0
	l, effects := account.Next(l, account.LeaseEvent{Kind: account.EventOperatorRestore}, t0.Add(5*time.Second), p)
	if l.State != account.StateRestoring || len(effects) != 0 {
		t.Fatalf("asked twice: %s %v", l.State, effects)
	}
	l, effects = account.Next(l, account.LeaseEvent{Kind: account.EventUnreachable, Asked: t0}, t0.Add(20*time.Second), p)
	if l.State != account.StateRestoring || len(effects) != 1 || effects[0].Kind != account.EffectCheck {
		t.Fatalf("the old answer counted: %s %v", l.State, effects)
	}
}

// TestNext_LateSuccessDoesNotAnswerTheOperator: a check that hung until its
// lease was over and then succeeds, while access is being given back, says
// nothing about now; the key is asked again.
func TestNext_LateSuccessDoesNotAnswerTheOperator(t *testing.T) {
	p := account.DefaultPolicy()
	l := leaseIn(account.StateSuspended)
	l.NextCheck = time.Time{} // a check is under way since t0
	l, _ = account.Next(l, account.LeaseEvent{Kind: account.EventOperatorRestore}, t0.Add(11*time.Minute), p)
	now := t0.Add(12 * time.Minute)
	l, effects := account.Next(l, account.LeaseEvent{Kind: account.EventOK, Asked: t0}, now, p)
	if l.State != account.StateRestoring || l.Opening || len(effects) != 1 || effects[0].Kind != account.EffectCheck {
		t.Fatalf("after the late answer: %s, opening %t, %v", l.State, l.Opening, effects)
	}
	if l, effects = account.Next(l, account.LeaseEvent{Kind: account.EventOK, Asked: now}, now.Add(time.Second), p); !l.Opening || len(effects) != 2 {
		t.Errorf("after the new answer: %s, %v", l.State, effects)
	}
	// A key that always needs longer than its lease does not keep restoring for ever.
	if l, _ = account.Next(l, account.LeaseEvent{Kind: account.EventTick}, now.Add(11*time.Minute), p); l.State != account.StateSuspending {
		t.Errorf("after the deadline: %s", l.State)
	}
}

func TestCheckEvent(t *testing.T) {
	now := t0
	for _, c := range []struct {
		info hsm.Info
		err  error
		want account.EventKind
	}{
		{hsm.Info{}, nil, account.EventOK},
		{hsm.Info{Expires: now.Add(time.Hour)}, nil, account.EventOK},
		{hsm.Info{Expires: now.Add(-time.Hour)}, nil, account.EventExpired},
		{hsm.Info{}, &hsm.Error{Kind: hsm.KindDenied}, account.EventDenied},
		{hsm.Info{}, &hsm.Error{Kind: hsm.KindNetworkDenied}, account.EventNetworkDenied},
		{hsm.Info{}, &hsm.Error{Kind: hsm.KindThrottled, RetryAfter: time.Second}, account.EventThrottled},
		{hsm.Info{}, &hsm.Error{Kind: hsm.KindUnreachable}, account.EventUnreachable},
		{hsm.Info{}, &hsm.Error{Kind: hsm.KindMisconfigured}, account.EventMisconfigured},
		{hsm.Info{}, errors.New("anything else"), account.EventUnreachable},
	} {
		if got := account.CheckEvent(c.info, c.err, now, now); got.Kind != c.want {
			t.Errorf("%+v %v: %s, want %s", c.info, c.err, got.Kind, c.want)
		}
	}
}
