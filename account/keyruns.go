package account

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"cmkfs/hsm"
)

// KeyCall is one call of the key agent that has ended.
type KeyCall struct {
	Purpose    string          `json:"purpose"`          // what the key was needed for: check, release, new-vek, …
	Volume     string          `json:"volume,omitempty"` // for which, if for one
	AEKID      string          `json:"aekId,omitempty"`  // likewise
	Params     KeyParams       `json:"params"`
	Operations []hsm.Operation `json:"operations"`
}

// Events are the call's operations as events, one for each.
func (c KeyCall) Events() []Event {
	var events []Event
	for _, o := range c.Operations {
		events = append(events, operationEvent(c, o))
	}
	return events
}

// PurposeCheck is the purpose of the periodic check.
const PurposeCheck = "check"

// Operations notes what was asked of the key. A check a minute is half a
// million lines a year, so equal answers to it share lines: the first gets its
// own, and after that there is one an hour with their number. Failures are
// written one by one, unless they go on for very long.
func (a *Audit) Operations(c KeyCall) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var events []Event
	for _, o := range c.Operations {
		e := operationEvent(c, o)
		if c.Purpose != PurposeCheck {
			events = append(events, e)
			continue
		}
		name := c.AEKID + " " + o.Op
		r := a.checks[name]
		if r == nil || !r.equal(e) {
			events = append(events, r.flush(a.now())...)
			r = &run{}
			a.checks[name] = r
		}
		events = append(events, r.add(e, o.Took, a.now())...)
	}
	events = append(events, a.overdue()...)
	a.write(events...)
}

// overdue are the lines of runs that nothing continues: of an account encryption
// key that is no more. The caller holds mu.
func (a *Audit) overdue() []Event {
	var events []Event
	for _, name := range slices.Sorted(maps.Keys(a.checks)) {
		if r := a.checks[name]; a.now().Sub(r.written) >= 2*runInterval {
			events = append(events, r.flush(a.now())...)
			delete(a.checks, name)
		}
	}
	return events
}

// operationEvent is one operation as an event.
func operationEvent(c KeyCall, o hsm.Operation) Event {
	e := Event{Kind: AuditKeyOperation, Volume: c.Volume, KeyParams: c.Params, Reason: o.Message, Detail: map[string]string{
		"operation": o.Op, "purpose": c.Purpose, "result": cmp.Or(string(o.Kind), "ok"), "ms": millis(o.Took),
	}}
	e.KeyID = cmp.Or(o.KeyID, e.KeyID)
	if o.Op == "list" {
		e.KeyID = "" // all of them
	}
	e.PrincipalID = cmp.Or(o.PrincipalID, e.PrincipalID)
	e.ClientID = cmp.Or(o.ClientID, e.ClientID)
	e.TenantID = cmp.Or(o.TenantID, e.TenantID)
	if o.Reason != "" {
		e.Detail["code"] = o.Reason
	}
	if o.Kind != "" {
		e.Severity = SeverityError
	}
	return e
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

const (
	runInterval = time.Hour // between two lines of a run
	runSingles  = 100       // failures of a run that are written one by one
)

// run is a sequence of equal answers.
type run struct {
	last    Event // the newest
	written time.Time
	n       int // answers in all

	// Those that no line stands for yet.
	pending int
	since   time.Time
	slowest time.Duration
}

// equal says whether an answer continues the run.
func (r *run) equal(e Event) bool {
	return r.last.KeyParams == e.KeyParams && r.last.Detail["result"] == e.Detail["result"] && r.last.Detail["code"] == e.Detail["code"]
}

// add takes an answer and returns the line that is due, if one is.
func (r *run) add(e Event, took time.Duration, now time.Time) []Event {
	if r.pending == 0 {
		r.since, r.slowest = now, 0
	}
	r.last = e
	r.n++
	r.pending++
	r.slowest = max(r.slowest, took)
	single := r.n == 1 || e.Severity == SeverityError && r.n <= runSingles
	if !single && now.Sub(r.written) < runInterval {
		return nil
	}
	return r.flush(now)
}

// flush returns the line for what is pending.
func (r *run) flush(now time.Time) []Event {
	if r == nil || r.pending == 0 {
		return nil
	}
	e := r.last
	if r.pending > 1 {
		e.Detail["count"] = strconv.Itoa(r.pending)
		e.Detail["since"] = r.since.UTC().Format(time.RFC3339)
		e.Detail["slowestMs"] = millis(r.slowest)
		delete(e.Detail, "ms")
	}
	r.pending, r.written = 0, now
	return []Event{e}
}
