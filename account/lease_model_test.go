package account_test

import (
	"slices"
	"testing"
	"time"

	"cmkfs/account"

	"pgregory.net/rapid"
)

// leaseModel plays random events, with the effects carried out or under way as
// a runner would have them, and checks after each what must hold always.
type leaseModel struct {
	t       *rapid.T
	p       account.Policy
	now     time.Time
	l       account.Lease
	effects []account.Effect // of the last step

	pending   map[account.EffectKind]int // effects whose event has not come yet
	asked     time.Time                  // when the check under way began
	goodUntil time.Time                  // until when the last success lasts
	held      bool                       // an operator suspended last
	workers   bool                       // a process may hold a key
	reopened  []time.Time                // when access came back by itself
}

func TestNext_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &leaseModel{t: t, p: account.DefaultPolicy(), now: t0, pending: map[account.EffectKind]int{}}
		if rapid.Bool().Draw(t, "automatic") {
			m.p.Recovery = account.RecoveryAutomatic
		}
		// Shorter than the time between two checks, too.
		m.p.OutageGrace = account.Duration(rapid.SampledFrom([]time.Duration{61 * time.Second, 10 * time.Minute, time.Hour}).Draw(t, "grace"))
		m.l, m.effects = account.Next(account.Lease{}, account.LeaseEvent{Kind: account.EventStart}, m.now, m.p)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			m.begin()
			m.check()
			m.step()
		}
	})
}

// begin takes the effects of the last step in.
func (m *leaseModel) begin() {
	for _, e := range m.effects {
		m.pending[e.Kind]++
		switch e.Kind {
		case account.EffectCheck:
			m.asked = m.now
		case account.EffectRestore:
			m.workers = true
			if !m.now.Before(m.goodUntil) || m.held {
				m.t.Fatalf("restored without a key that is known good, or against an operator")
			}
		case account.EffectExtend:
			if e.Deadline.After(m.goodUntil) {
				m.t.Fatalf("the workers were told %v, the key is good until %v", e.Deadline, m.goodUntil)
			}
		}
	}
}

// check looks for what must never be.
func (m *leaseModel) check() {
	switch {
	case m.pending[account.EffectCheck] > 1:
		m.t.Fatalf("two checks at a time")
	case m.l.Open() && m.now.After(m.goodUntil):
		m.t.Fatalf("%s after the deadline", m.l.State)
	case m.l.Open() && m.held:
		m.t.Fatalf("%s against an operator", m.l.State)
	case m.workers && !m.l.Open() && m.l.State != account.StateSuspending:
		m.t.Fatalf("%s, and a worker may have a key: half open", m.l.State)
	case m.l.State == account.StateSuspending && m.pending[account.EffectSuspend] == 0:
		m.t.Fatalf("suspending, and nobody does it")
	case m.l.State == account.StateRestoring && m.l.Opening && m.pending[account.EffectRestore] == 0:
		m.t.Fatalf("opening, and nobody does it")
	case m.pending[account.EffectCheck] == 0 && m.l.NextCheck.IsZero():
		m.t.Fatalf("%s, and nobody will ever ask the key again", m.l.State)
	case m.l.Open() && m.l.Wake().IsZero():
		m.t.Fatalf("%s, and nobody will end it", m.l.State)
	}
	again, more := account.Next(m.l, account.LeaseEvent{Kind: account.EventOperatorRestore}, m.now, m.p)
	if m.l.Open() && (again.State != m.l.State && again.State != account.StateSuspending || slices.ContainsFunc(more, isRestore)) {
		m.t.Fatalf("restoring what is open is not idempotent: %s, then %s %v", m.l.State, again.State, more)
	}
}

func isRestore(e account.Effect) bool { return e.Kind == account.EffectRestore }

// answers says which effect an event ends; "" = it comes by itself.
var answers = map[account.EventKind]account.EffectKind{
	account.EventDrained: account.EffectSuspend, account.EventRestored: account.EffectRestore, account.EventRestoreFailed: account.EffectRestore,
	account.EventStart: "", account.EventOperatorSuspend: "", account.EventOperatorRestore: "", account.EventTick: "", account.EventPolicy: "",
}

// step draws what happens next, and when.
func (m *leaseModel) step() {
	ev := account.LeaseEvent{Kind: rapid.SampledFrom(account.EventKinds).Draw(m.t, "event")}
	ended, known := answers[ev.Kind]
	if !known {
		ended, ev.Asked = account.EffectCheck, m.asked
	}
	if ev.Kind == account.EventUnanswered && m.pending[account.EffectCheck] > 0 {
		ended = "" // its answer still comes
	} else if ended != "" && m.pending[ended] == 0 {
		ev, ended = account.LeaseEvent{Kind: account.EventTick}, "" // nobody could have sent it
	}
	switch {
	case ev.Kind == account.EventTick && rapid.Bool().Draw(m.t, "due") && m.l.Wake().After(m.now):
		m.now = m.l.Wake()
	case ev.Kind == account.EventStart:
		// The only moment at which somebody who set the clock is believed.
		m.now = m.now.Add(time.Duration(rapid.IntRange(-100, 100).Draw(m.t, "hours")) * time.Hour)
	default:
		m.now = m.now.Add(time.Duration(rapid.IntRange(0, 90).Draw(m.t, "seconds")) * time.Second)
	}
	if ended != "" {
		m.pending[ended]--
	}
	switch ev.Kind {
	case account.EventStart:
		clear(m.pending)
		m.workers, m.goodUntil, m.reopened = false, time.Time{}, nil
		m.held = m.l.Operator || m.l.LockAsked
	case account.EventOperatorSuspend:
		m.held = true
	case account.EventOperatorRestore:
		m.held, m.reopened = false, nil
	case account.EventOK, account.EventExpired:
		m.goodUntil = m.asked.Add(time.Duration(m.p.OutageGrace))
	case account.EventDrained:
		// A Restore that this suspending overtook has ended before it began.
		m.workers = m.pending[account.EffectSuspend] > 0
		m.pending[account.EffectRestore] = 0
	}
	before := m.l
	m.l, m.effects = account.Next(m.l, ev, m.now, m.p)
	m.closed(before, ev)
	m.opened(before, ev)
}

// closed checks that access is not taken from a key that is known good.
func (m *leaseModel) closed(before account.Lease, ev account.LeaseEvent) {
	if m.l.State == account.StateSuspending && before.State != account.StateSuspending &&
		before.KeyGood && before.Open() && m.now.Before(before.Expires) && m.now.Before(m.goodUntil) &&
		ev.Kind != account.EventOperatorSuspend && ev.Kind != account.EventRestoreFailed {
		m.t.Fatalf("%s suspended a key that is known good by %s", before.State, ev.Kind)
	}
}

// opened checks that a key that comes and goes does not open and close the
// volumes for ever.
func (m *leaseModel) opened(before account.Lease, ev account.LeaseEvent) {
	if before.State != account.StateSuspended || !slices.ContainsFunc(m.effects, isRestore) {
		return
	}
	m.reopened = append(m.reopened, m.now)
	const most = 8 // 0, 30 s, 1, 2, 4, 8, 15, 15 min of good checks between them
	if n := len(m.reopened); n > most && m.now.Sub(m.reopened[n-1-most]) < time.Hour {
		m.t.Fatalf("access came back %d times within an hour", most+1)
	}
}

// TestNext_Flapping: a key that comes and goes every few seconds suspends the
// volumes some times an hour, not each time it goes; and one that stays comes
// back.
func TestNext_Flapping(t *testing.T) {
	p := account.DefaultPolicy()
	p.Recovery = account.RecoveryAutomatic
	now, l := t0, leaseIn(account.StateOnline)
	suspensions := 0
	// step answers a check, or carries out what it led to.
	step := func(kind account.EventKind) {
		var effects []account.Effect
		l, effects = account.Next(l, account.LeaseEvent{Kind: kind, Asked: now, Text: "text"}, now, p)
		for _, e := range effects {
			switch e.Kind {
			case account.EffectSuspend:
				suspensions++
				l, _ = account.Next(l, account.LeaseEvent{Kind: account.EventDrained}, now, p)
			case account.EffectRestore:
				l, _ = account.Next(l, account.LeaseEvent{Kind: account.EventRestored}, now, p)
			}
		}
	}
	// Each time good for long enough to have come back, were it not for the losses.
	for hour := range 3 {
		before := suspensions
		for end := now.Add(time.Hour); now.Before(end); {
			for range 2 {
				now = now.Add(10 * time.Second)
				step(account.EventDenied)
			}
			for l.State != account.StateOnline && now.Before(end) {
				now = now.Add(10 * time.Second)
				step(account.EventOK)
			}
		}
		if n := suspensions - before; n < 3 || n > 9 {
			t.Errorf("hour %d: %d suspensions", hour, n)
		}
	}
	// A shorter time than the trial never brings access back.
	for range 100 {
		for _, k := range []account.EventKind{account.EventDenied, account.EventDenied, account.EventOK, account.EventOK} {
			now = now.Add(10 * time.Second)
			step(k)
		}
	}
	if l.State != account.StateSuspended {
		t.Errorf("came back within its trial: %s", l.State)
	}
	if text := l.NextAction(p); l.Reopens(p).Sub(l.GoodSince) != 15*time.Minute || !l.KeyGood || text == "" {
		t.Errorf("%s %+v", text, l)
	}
	for range 90 {
		now = now.Add(10 * time.Second)
		step(account.EventOK)
	}
	if l.State != account.StateOnline {
		t.Errorf("did not come back after its trial: %s, %s", l.State, l.NextAction(p))
	}
	// After a quiet hour the next loss is the first.
	for range 400 {
		now = now.Add(10 * time.Second)
		step(account.EventOK)
	}
	for _, k := range []account.EventKind{account.EventDenied, account.EventDenied, account.EventOK} {
		now = now.Add(10 * time.Second)
		step(k)
	}
	if l.State != account.StateOnline || l.Losses != 1 {
		t.Errorf("after a quiet hour: %s, %d losses", l.State, l.Losses)
	}
	// An operator needs no patience.
	for range 5 {
		now = now.Add(10 * time.Second)
		step(account.EventDenied)
	}
	step(account.EventOperatorRestore)
	now = now.Add(time.Second)
	step(account.EventOK)
	if l.State != account.StateOnline || l.Losses != 0 {
		t.Errorf("the operator: %s, %d losses", l.State, l.Losses)
	}
}

// TestNext_SlowChecks: an answer that takes longer than the interval between two
// checks counts from when it was asked for, and there is never a second question.
func TestNext_SlowChecks(t *testing.T) {
	p := account.DefaultPolicy()
	l, now := leaseIn(account.StateOnline), t0
	for range 20 {
		asked := l.NextCheck
		var effects []account.Effect
		l, effects = account.Next(l, account.LeaseEvent{Kind: account.EventTick}, asked, p)
		if len(effects) != 1 || effects[0].Kind != account.EffectCheck {
			t.Fatalf("not asked: %+v", effects)
		}
		for range 9 { // nine intervals, within the grace of ten
			now = asked.Add(time.Duration(p.CheckInterval))
			if l, effects = account.Next(l, account.LeaseEvent{Kind: account.EventTick}, now, p); len(effects) != 0 || l.State != account.StateOnline {
				t.Fatalf("while it is being asked: %s %+v", l.State, effects)
			}
		}
		l, _ = account.Next(l, account.LeaseEvent{Kind: account.EventOK, Asked: asked}, now, p)
		if l.State != account.StateOnline || !l.Expires.Equal(asked.Add(10*time.Minute)) {
			t.Fatalf("after a slow answer: %s until %v, asked at %v", l.State, l.Expires, asked)
		}
	}
	// One that takes longer than the lease it gives opens nothing.
	asked := l.NextCheck
	l, _ = account.Next(l, account.LeaseEvent{Kind: account.EventTick}, asked, p)
	if l, _ = account.Next(l, account.LeaseEvent{Kind: account.EventOK, Asked: asked}, asked.Add(11*time.Minute), p); l.State != account.StateSuspending {
		t.Errorf("an answer after the deadline: %s", l.State)
	}
}
