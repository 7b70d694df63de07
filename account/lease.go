package account

import (
	"errors"
	"fmt"
	"time"

	"cmkfs/hsm"
)

// State says whether the volumes under the account's key may be open.
type State string

// The states of a lease.
const (
	// StateOnline: the last check decrypted the account encryption key.
	StateOnline State = "online"
	// StateDegraded: checks fail; volumes stay open until the lease expires or
	// a denial is confirmed.
	StateDegraded State = "degraded"
	// StateSuspending: workers drain; nothing new is let in.
	StateSuspending State = "suspending"
	// StateSuspended: no process holds a key; requests fail.
	StateSuspended State = "suspended"
	// StateRestoring: the key is asked, then workers start.
	StateRestoring State = "restoring"
)

// States lists every state.
var States = []State{StateOnline, StateDegraded, StateSuspending, StateSuspended, StateRestoring}

// EventKind names what happened to a lease.
type EventKind string

// The events. A check that fails sends the event of its hsm.Kind.
const (
	EventStart           EventKind = "daemon-start"     // a daemon took over; no worker runs
	EventOK              EventKind = "check-ok"         // the account encryption key was decrypted
	EventExpired         EventKind = "expired-warning"  // as check-ok, but the key has expired
	EventDenied          EventKind = "denied"           // hsm.KindDenied
	EventNetworkDenied   EventKind = "network-denied"   // hsm.KindNetworkDenied
	EventThrottled       EventKind = "throttled"        // hsm.KindThrottled
	EventUnreachable     EventKind = "unreachable"      // hsm.KindUnreachable
	EventMisconfigured   EventKind = "misconfigured"    // hsm.KindMisconfigured
	EventUnanswered      EventKind = "unanswered"       // the check under way takes long; its answer follows
	EventTick            EventKind = "tick"             // time has passed
	EventPolicy          EventKind = "policy-changed"   // the policy given to Next is another one
	EventOperatorSuspend EventKind = "operator-suspend" // volume suspend --all
	EventOperatorRestore EventKind = "operator-restore" // volume restore-access
	EventDrained         EventKind = "drained"          // EffectSuspend is done
	EventRestored        EventKind = "restored"         // EffectRestore is done
	EventRestoreFailed   EventKind = "restore-failed"   // EffectRestore failed
)

// EventKinds lists every kind of event.
var EventKinds = []EventKind{
	EventStart, EventOK, EventExpired, EventDenied, EventNetworkDenied, EventThrottled, EventUnreachable,
	EventMisconfigured, EventUnanswered, EventTick, EventPolicy, EventOperatorSuspend, EventOperatorRestore, EventDrained, EventRestored, EventRestoreFailed,
}

// LeaseEvent is one event.
type LeaseEvent struct {
	Kind       EventKind
	Code       string        // one word: KeyDisabled, …
	Text       string        // one sentence: the reason
	Asked      time.Time     // check results: when the check began
	RetryAfter time.Duration // throttled: 0 = not said
	// KeyExpires and CredentialExpires, of a check that succeeded: zero = never.
	KeyExpires, CredentialExpires time.Time
}

// checkEvent turns the answer of a check that began at asked into an event.
func checkEvent(info hsm.Info, err error, asked, now time.Time) LeaseEvent {
	if err == nil {
		e := LeaseEvent{Kind: EventOK, Asked: asked, Text: expiryWarning(info, now), KeyExpires: info.Expires, CredentialExpires: info.CredentialExpires}
		if days, due := stage(info.Expires, now); due && days == 0 {
			e.Kind = EventExpired
		}
		return e
	}
	e := LeaseEvent{Kind: EventKind(hsm.KindOf(err)), Asked: asked, Text: err.Error()}
	var keyErr *hsm.Error
	if errors.As(err, &keyErr) {
		e.Code, e.RetryAfter = keyErr.Reason, keyErr.RetryAfter
		if keyErr.Message != "" {
			e.Text = keyErr.Message
		}
	}
	return e
}

// Lease is the right to keep volumes open until a deadline, and what led to
// its present state. It is a value; Next returns the following one.
type Lease struct {
	Version  int       `json:"version"`
	State    State     `json:"state"`
	Since    time.Time `json:"since"`              // of the state
	Reason   string    `json:"reason,omitempty"`   // one sentence why the state is not online
	Code     string    `json:"code,omitempty"`     // one word for it
	Cause    EventKind `json:"cause,omitempty"`    // the event that took the state from online
	Operator bool      `json:"operator,omitempty"` // an operator suspended: only an operator restores
	// Resume: access was not taken away since the daemon started, it was never
	// given; so the first successful check gives it, whatever the policy.
	Resume bool `json:"resume,omitempty"`
	// RestoreAsked and LockAsked: what an operator asked for while workers
	// still drain, to be done after that. At most one is set.
	RestoreAsked bool `json:"restoreAsked,omitempty"`
	LockAsked    bool `json:"lockAsked,omitempty"`
	Opening      bool `json:"opening,omitempty"` // restoring only: the key has said yes, workers start
	KeyGood      bool `json:"keyGood,omitempty"` // the last check succeeded
	Denials      int  `json:"denials,omitempty"` // since the last success
	// Losses counts the suspensions by the key, LastLoss is when the last one
	// was: a key that is lost again and again is trusted later each time. An
	// hour without a loss, or an operator, begins the count anew.
	Losses   int       `json:"losses,omitempty"`
	LastLoss time.Time `json:"lastLoss,omitzero"`
	// GoodSince is when the first of the present row of successful checks began;
	// meaningful while KeyGood.
	GoodSince time.Time `json:"goodSince,omitzero"`
	Warning   string    `json:"warning,omitempty"` // about a key that still decrypts
	// KeyExpires and CredentialExpires are when the key and the credential that
	// asks for it expire, as of the last success; zero = never, or not known.
	KeyExpires        time.Time `json:"keyExpires,omitzero"`
	CredentialExpires time.Time `json:"credentialExpires,omitzero"`
	LastCheck         time.Time `json:"lastCheck,omitzero"`
	LastSuccess       time.Time `json:"lastSuccess,omitzero"` // when the last successful check began
	Expires           time.Time `json:"expires,omitzero"`     // the deadline; meaningful while Open
	// NextCheck is when to ask the key again; zero while it is being asked.
	NextCheck time.Time `json:"nextCheck,omitzero"`
}

// Open reports whether a worker may hold a key.
func (l Lease) Open() bool {
	return l.State == StateOnline || l.State == StateDegraded || l.State == StateRestoring && l.Opening
}

// Wake returns when the next tick is needed; zero = never.
func (l Lease) Wake() time.Time {
	if l.Open() && (l.NextCheck.IsZero() || l.Expires.Before(l.NextCheck)) {
		return l.Expires
	}
	return l.NextCheck
}

// quiet is how long a key must not have been lost for its losses to be forgotten.
const quiet = time.Hour

// maxTrial bounds how long a key that comes and goes must answer before access
// comes back.
const maxTrial = 15 * time.Minute

// trial is how long the key must have answered without a failure before access
// comes back by itself: at once after the first loss, then three checks' time,
// doubled with every further loss.
func (l Lease) trial(p Policy) time.Duration {
	if l.Losses < 2 {
		return 0
	}
	d := 3 * time.Duration(p.CheckIntervalUnhealthy)
	for range l.Losses - 2 {
		if d = 2 * d; d >= maxTrial {
			return maxTrial
		}
	}
	return min(d, maxTrial)
}

// Reopens returns when access comes back by itself, with automatic recovery, if
// the key goes on answering; meaningful while suspended with KeyGood.
func (l Lease) Reopens(p Policy) time.Time { return l.GoodSince.Add(l.trial(p)) }

// patience says so to people.
func (l Lease) patience(p Policy) string {
	if d := l.trial(p); d > 0 && !l.Resume {
		return fmt.Sprintf(" and goes on doing so for %s (it was lost %d times in a short time)", d, l.Losses)
	}
	return ""
}

// EffectKind names what the runner has to do.
type EffectKind string

// The effects.
const (
	EffectCheck   EffectKind = "check"   // ask the key; ends in the event of its answer
	EffectExtend  EffectKind = "extend"  // tell the workers the new deadline
	EffectSuspend EffectKind = "suspend" // drain and end the workers; ends in drained
	EffectRestore EffectKind = "restore" // start the workers; ends in restored or restore-failed
)

// Effect is one thing to do.
type Effect struct {
	Kind     EffectKind
	Deadline time.Time // extend
	Reason   string    // suspend: one sentence
	Errno    string    // suspend: the name of the errno that requests fail with
	Operator bool      // suspend: every volume, not only those under the key that was checked
}

// NextAction says in one sentence what happens next or has to be done.
func (l Lease) NextAction(p Policy) string {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	next := "the key is being asked now"
	if !l.NextCheck.IsZero() {
		next = "the key is asked again at " + at(l.NextCheck)
	}
	const restore = "run: cmkfsd volume restore-access --all"
	switch l.State {
	case StateOnline:
		return next
	case StateDegraded:
		if l.Denials > 0 {
			return next + "; a second denial suspends the volumes"
		}
		return next + "; without an answer the volumes are suspended at " + at(l.Expires)
	case StateSuspending:
		return "the volumes are being drained and closed"
	case StateRestoring:
		if l.Opening {
			return "the volumes are being opened"
		}
		return next
	}
	switch {
	case l.Operator:
		return "to give access back, " + restore
	case l.Resume || p.Recovery == RecoveryAutomatic && !l.KeyGood:
		return next + "; access comes back when it answers" + l.patience(p)
	case p.Recovery == RecoveryAutomatic:
		return fmt.Sprintf("the key is available again; access comes back at %s if it stays so (it was lost %d times in a short time)", at(l.Reopens(p)), l.Losses)
	case l.KeyGood:
		return "the key is available again; to give access back, " + restore
	default:
		return "make the key available again, then " + restore
	}
}
