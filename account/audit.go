package account

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cmkfs/hsm"
)

// Audit writes an account's audit log. It knows what the log says already, so
// that a state is reported when it changes and a warning once, whatever is
// restarted in between. A log that cannot be written keeps nobody from
// anything: its failures go to the daemon's log.
type Audit struct {
	log  *slog.Logger
	now  func() time.Time
	file *EventLog

	lost atomic.Uint64 // events that could not be stored

	mu sync.Mutex // held while something is decided and written

	checks map[string]*run // guarded by mu: the answers to the periodic check, by account encryption key and operation
}

// auditWait is how long the daemon waits for a command that has just found that
// none runs and writes for itself.
const auditWait = 5 * time.Second

// OpenAudit opens or makes the audit log of an account, for a daemon.
func (d *Dir) OpenAudit(account string, log *slog.Logger) (*Audit, error) {
	f, err := d.OpenEvents(account, auditWait)
	if err != nil {
		return nil, err
	}
	a := &Audit{log: log, now: time.Now, file: f, checks: map[string]*run{}}
	if f.mu.lost > 0 {
		a.Record(Event{Kind: AuditLogTruncated, Reason: "events at the end of the audit log are missing",
			Detail: map[string]string{"lastLost": strconv.FormatUint(f.mu.lost, 10)}})
	}
	return a, nil
}

// Close writes what is still to be written and closes the log.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var last []Event
	for _, name := range slices.Sorted(maps.Keys(a.checks)) {
		last = append(last, a.checks[name].flush(a.now())...)
	}
	a.write(last...)
	return a.file.Close()
}

// Lost returns how many events could not be stored since the log was opened.
func (a *Audit) Lost() uint64 { return a.lost.Load() }

// Record writes events.
func (a *Audit) Record(events ...Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.write(events...)
}

// write writes events to the log, and each as a record to the daemon's. The
// caller holds mu.
func (a *Audit) write(events ...Event) {
	err := a.file.Append(events...)
	for _, e := range events {
		if err != nil {
			e.Seq = 0 // it got no number
		}
		e.Severity = cmp.Or(e.Severity, severityOf(e.Kind))
		a.log.LogAttrs(context.Background(), e.Severity.Level(), e.Kind, e.attrs()...)
	}
	if err != nil {
		a.lost.Add(uint64(len(events)))
		a.log.Error("the audit log cannot be written", "account", a.file.account, "err", err)
	}
}

// attrs are an event's fields for the daemon's log.
func (e Event) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("account", e.Account)}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if e.Seq > 0 {
		attrs = append(attrs, slog.Uint64("seq", e.Seq))
	}
	add("severity", string(e.Severity))
	add("vol", e.Volume)
	add("from", e.From)
	add("to", e.To)
	add("keyId", e.KeyID)
	add("vaultHost", e.VaultHost)
	add("principalId", e.PrincipalID)
	add("clientId", e.ClientID)
	add("tenantId", e.TenantID)
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		add(k, e.Detail[k])
	}
	add("reason", e.Reason)
	return attrs
}

// KeyParams is the account's key and who asks for it.
func (a *Account) KeyParams() KeyParams { return a.paramsOf(a.Current()) }

// KeyParamsOf is the same for any key: one of the account's, or one that is
// looked at before it is used.
func (a *Account) KeyParamsOf(key hsm.Config) KeyParams {
	for i := range slices.Backward(a.AEKs) {
		if reflect.DeepEqual(a.AEKs[i].Key, key) {
			return a.paramsOf(&a.AEKs[i])
		}
	}
	return KeyParams{VaultHost: vaultHost(key)}
}

func (a *Account) paramsOf(k *AEKRecord) KeyParams {
	if k == nil {
		return KeyParams{}
	}
	p := KeyParams{KeyID: k.Wrapped.KeyID, VaultHost: vaultHost(k.Key)}
	if k.Key.Azure != nil {
		p.PrincipalID, p.ClientID, p.TenantID = a.Identity.PrincipalID, k.KeyInfo.ClientID, k.KeyInfo.TenantID
	}
	return p
}

// vaultHost is the host name of a key's vault, "" for a key in none.
func vaultHost(key hsm.Config) string {
	if key.Azure == nil {
		return ""
	}
	u, err := url.Parse(key.Azure.VaultURI)
	if err != nil {
		return "" // it was checked when it was set
	}
	return u.Hostname()
}

// said is what a log says already.
type said struct {
	reach  string          // the last of available, notAvailable
	access string          // the last of active, blocked
	warned map[warning]int // the fewest days left that were warned of

	replaced map[string]string // when a former key was last reported to be one
}

// warning is what expires: a key or a credential renewed has another date.
type warning struct{ kind, keyID, expires string }

func newSaid() said {
	return said{reach: AuditAvailable, access: AuditActive, warned: map[warning]int{}, replaced: map[string]string{}}
}

// take notes an event of the log.
func (s *said) take(e Event) {
	switch e.Kind {
	case AuditAvailable, AuditNotAvailable:
		s.reach = e.Kind
	case AuditActive, AuditBlocked:
		s.access = e.Kind
	case AuditAccountRekeyed, AuditKeyVersionChanged:
		s.replaced[e.Detail["oldKeyId"]] = e.Detail["replacedAt"]
	case AuditKeyExpired, AuditCredentialExpired:
		s.warned[warningOf(e)] = 0
	case AuditKeyExpiring, AuditCredentialExpiring:
		if days, err := strconv.Atoi(e.Detail["days"]); err == nil {
			s.warned[warningOf(e)] = days
		}
	}
}

// warningOf is what an event warns of.
func warningOf(e Event) warning {
	w := warning{kind: "key", keyID: e.KeyID, expires: e.Detail["expires"]}
	if e.Kind == AuditCredentialExpiring || e.Kind == AuditCredentialExpired {
		w.kind = "credential"
		w.keyID = "" // one credential, whatever it asks for
	}
	return w
}

// said returns what the log says.
func (l *EventLog) said(ask func(said)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ask(l.mu.said)
}

// Checked notes the answer of the periodic check: whether the key answers at
// all, and what expires.
func (a *Audit) Checked(info hsm.Info, err error, key KeyParams) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var events []Event
	a.file.said(func(s said) {
		reach := Event{Kind: AuditAvailable, KeyParams: key}
		if kind := hsm.KindOf(err); err != nil && kind != hsm.KindDenied {
			reach.Kind = AuditNotAvailable
			reach.Reason, reach.Detail = failureOf(err), map[string]string{"result": string(kind)}
		}
		if reach.Kind != s.reach {
			events = append(events, reach)
		}
		if err == nil {
			if info.KeyID != "" {
				key.KeyID = info.KeyID
			}
			events = append(events, s.expiries(info, key, a.now())...)
		}
	})
	a.write(events...)
}

// Replaced notes which keys of the account have become former ones since the log
// last said so: now, or before a crash that kept it from being written.
func (a *Audit) Replaced(record *Account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var events []Event
	a.file.said(func(s said) {
		for _, p := range record.PreviousKeys {
			if e := record.replacedEvent(p); s.replaced[p.KeyID] != e.Detail["replacedAt"] {
				events = append(events, e)
			}
		}
	})
	if len(events) > 0 {
		a.write(events...)
	}
}

// failureOf is a failure in one sentence.
func failureOf(err error) string {
	var o hsm.Operation
	o.Fail(err)
	return o.Message
}

// expiries are the warnings that are due and were not given yet. Of several
// stages that have passed meanwhile only the last is reported.
func (s said) expiries(info hsm.Info, key KeyParams, now time.Time) []Event {
	var events []Event
	due := func(expiring, expired string, expires time.Time) {
		days, due := stage(expires, now)
		if !due {
			return
		}
		e := Event{Kind: expired, KeyParams: key, Detail: map[string]string{"expires": expires.UTC().Format(time.RFC3339)}}
		if days > 0 {
			e.Kind, e.Detail["days"] = expiring, strconv.Itoa(days)
			e.Severity = map[int]Severity{30: SeverityNotice, 7: SeverityError, 1: SeverityAlert}[days]
		}
		if last, ok := s.warned[warningOf(e)]; ok && last <= days {
			return
		}
		events = append(events, e)
	}
	due(AuditKeyExpiring, AuditKeyExpired, info.Expires)
	due(AuditCredentialExpiring, AuditCredentialExpired, info.CredentialExpires)
	return events
}

// Lease notes a change of the lease, and whether the key opens volumes: a key
// that does not, for whatever reason, blocks them. What an operator suspends is
// not the key's doing.
func (a *Audit) Lease(from, to Lease, cause LeaseEvent, key KeyParams) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var events []Event
	if from.State != to.State || from.Operator != to.Operator {
		events = append(events, transitionEvent(from, to, cause))
	}
	access := ""
	switch to.State {
	case StateSuspending, StateSuspended:
		if !to.Operator {
			access = AuditBlocked
		}
	case StateOnline, StateDegraded:
		access = AuditActive
	}
	a.file.said(func(s said) {
		if access != "" && access != s.access {
			e := Event{Kind: access, KeyParams: key}
			if access == AuditBlocked {
				e.Reason, e.Detail = to.Reason, map[string]string{"result": string(to.Cause)}
				if to.Code != "" {
					e.Detail["code"] = to.Code
				}
			}
			events = append(events, e)
		}
	})
	a.write(events...)
}

// transitionEvent is what the audit log says about a change of the lease.
func transitionEvent(from, to Lease, cause LeaseEvent) Event {
	e := Event{Kind: AuditStateChanged, From: string(from.State), To: string(to.State), Reason: cause.Text, Detail: map[string]string{"cause": string(cause.Kind)}}
	if from.State == to.State {
		e.Kind = AuditLeaseChanged
	}
	if e.Reason == "" {
		e.Reason = to.Reason
	}
	if cause.Code != "" {
		e.Detail["code"] = cause.Code
	}
	if to.Warning != "" {
		e.Detail["warning"] = to.Warning
	}
	return e
}
