package account

import (
	"maps"
	"time"
)

// Next is the state machine: what an event makes of a lease, and what has to
// be done about it. It reads no clock and does nothing itself.
//
// The deadline comes first: an open lease whose time is over is suspended
// before the event is looked at, even if the event is good news. A worker may
// have closed its volume by itself at that moment.
func Next(l Lease, ev LeaseEvent, now time.Time, p Policy) (Lease, []Effect) {
	s := &step{Lease: l, ev: ev, now: now, policy: p}
	if s.State == "" { // of an account that no daemon has had yet
		s.State = StateRestoring
	}
	if ev.Kind != EventStart && s.Open() && !now.Before(s.Expires) {
		s.expire()
	}
	table[s.State][ev.Kind](s)
	return s.Lease, s.effects
}

type transition = func(*step)

// failures are the answers that let the lease run out.
func failures(t transition) map[EventKind]transition {
	return map[EventKind]transition{
		EventNetworkDenied: t, EventThrottled: t, EventUnreachable: t, EventMisconfigured: t,
	}
}

func row(rest map[EventKind]transition, failed map[EventKind]transition) map[EventKind]transition {
	maps.Copy(rest, failed)
	return rest
}

// table has an entry for every state and event.
var table = map[State]map[EventKind]transition{
	StateOnline: row(map[EventKind]transition{
		EventStart:           (*step).start,
		EventOK:              (*step).renew,
		EventExpired:         (*step).renew,
		EventDenied:          (*step).degrade,
		EventUnanswered:      (*step).wait,
		EventTick:            (*step).tick,
		EventPolicy:          (*step).replan,
		EventOperatorSuspend: (*step).lock,
		EventOperatorRestore: (*step).ignore, // idempotent
		EventDrained:         (*step).ignore,
		EventRestored:        (*step).ignore,
		EventRestoreFailed:   (*step).ignore,
	}, failures((*step).degrade)),
	StateDegraded: row(map[EventKind]transition{
		EventStart:           (*step).start,
		EventOK:              (*step).recover,
		EventExpired:         (*step).recover,
		EventDenied:          (*step).degrade,
		EventUnanswered:      (*step).ignore,
		EventTick:            (*step).tick,
		EventPolicy:          (*step).replan,
		EventOperatorSuspend: (*step).lock,
		EventOperatorRestore: (*step).ask,
		EventDrained:         (*step).ignore,
		EventRestored:        (*step).ignore,
		EventRestoreFailed:   (*step).ignore,
	}, failures((*step).degrade)),
	StateSuspending: row(map[EventKind]transition{
		EventStart:           (*step).start,
		EventOK:              (*step).noteSuccess,
		EventExpired:         (*step).noteSuccess,
		EventDenied:          (*step).noteFailure,
		EventUnanswered:      (*step).ignore,
		EventTick:            (*step).tick,
		EventPolicy:          (*step).replan,
		EventOperatorSuspend: (*step).hold,
		EventOperatorRestore: (*step).askLater,
		EventDrained:         (*step).drained,
		EventRestored:        (*step).ignore, // of a restoring that this suspending overtook
		EventRestoreFailed:   (*step).ignore,
	}, failures((*step).noteFailure)),
	StateSuspended: row(map[EventKind]transition{
		EventStart:           (*step).start,
		EventOK:              (*step).comeBack,
		EventExpired:         (*step).comeBack,
		EventDenied:          (*step).noteFailure,
		EventUnanswered:      (*step).ignore,
		EventTick:            (*step).tick,
		EventPolicy:          (*step).replan,
		EventOperatorSuspend: (*step).lockMore,
		EventOperatorRestore: (*step).restore,
		EventDrained:         (*step).ignore,
		EventRestored:        (*step).ignore,
		EventRestoreFailed:   (*step).ignore,
	}, failures((*step).noteFailure)),
	StateRestoring: row(map[EventKind]transition{
		EventStart:           (*step).start,
		EventOK:              (*step).open,
		EventExpired:         (*step).open,
		EventDenied:          (*step).failRestoring,
		EventUnanswered:      (*step).ignore,
		EventTick:            (*step).tick,
		EventPolicy:          (*step).replan,
		EventOperatorSuspend: (*step).lock,
		EventOperatorRestore: (*step).ignore, // idempotent
		EventDrained:         (*step).ignore,
		EventRestored:        (*step).restored,
		EventRestoreFailed:   (*step).restoreFailed,
	}, failures((*step).failRestoring)),
}
