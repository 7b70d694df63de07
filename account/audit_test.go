package account_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
)

// auditor is an audit log with a clock that stands still until it is moved.
type auditor struct {
	t   *testing.T
	dir *account.Dir
	now time.Time
	log bytes.Buffer // what went to the daemon's log
	*account.Audit
}

func newAuditor(t *testing.T) *auditor {
	d, _ := eventDir(t)
	a := &auditor{t: t, dir: d, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a.open()
	return a
}

func (a *auditor) open() {
	a.t.Helper()
	audit, err := a.dir.OpenAudit("a", slog.New(slog.NewTextHandler(&a.log, nil)))
	if err != nil {
		a.t.Fatal(err)
	}
	audit.SetNow(func() time.Time { return a.now })
	a.Audit = audit
}

// restart closes and opens the log, as a daemon that is stopped and started.
func (a *auditor) restart() {
	a.t.Helper()
	if err := a.Close(); err != nil {
		a.t.Fatal(err)
	}
	a.open()
}

// events returns the log's events of some kinds, or all, as they are.
func (a *auditor) events(kinds ...string) []account.Event {
	a.t.Helper()
	var all []account.Event
	if err := a.dir.Events("a", 0, func(e account.Event) error {
		if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
			all = append(all, e)
		}
		return nil
	}); err != nil {
		a.t.Fatal(err)
	}
	return all
}

// kinds are the kinds of the log's events, with some details.
func (a *auditor) kinds(details ...string) string {
	a.t.Helper()
	var all []string
	for _, e := range a.events() {
		s := e.Kind
		for _, d := range details {
			if v := e.Detail[d]; v != "" {
				s += ":" + v
			}
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

var (
	keyDisabled = &hsm.Error{Op: "decrypt", Kind: hsm.KindDenied, Reason: "KeyDisabled", Message: "Azure Key Vault key is not enabled"}
	vaultSilent = &hsm.Error{Op: "decrypt", Kind: hsm.KindUnreachable, Reason: "Timeout", Message: "Could not connect to the KeyVault"}
)

func TestAudit_Checked_ReachIsToldWhenItChanges(t *testing.T) {
	a := newAuditor(t)
	key := account.KeyParams{KeyID: "https://v/keys/k/1", VaultHost: "v", ClientID: "c", TenantID: "t"}
	info := hsm.Info{KeyID: key.KeyID}
	a.Checked(info, nil, key) // the usual case is no event
	a.Checked(info, vaultSilent, key)
	a.Checked(info, vaultSilent, key)
	a.restart()
	a.Checked(info, &hsm.Error{Kind: hsm.KindNetworkDenied}, key)
	a.Checked(info, keyDisabled, key) // refused, but it answers
	a.Checked(info, nil, key)
	if got := a.kinds("result"); got != "notAvailable:unreachable available" {
		t.Error(got)
	}
	e := a.events()[0]
	if e.Severity != account.SeverityAlert || e.KeyParams != key || e.Reason != vaultSilent.Message {
		t.Errorf("%+v", e)
	}
	if e = a.events()[1]; e.Severity != account.SeverityNotice {
		t.Errorf("%+v", e)
	}
	for _, want := range []string{"level=ERROR msg=notAvailable account=a seq=1 severity=ALERT", "level=INFO msg=available", "vaultHost=v", "clientId=c", "tenantId=t"} {
		if !strings.Contains(a.log.String(), want) {
			t.Errorf("no %q in\n%s", want, a.log.String())
		}
	}
}

// TestAudit_Checked_WarnsOncePerStage lets the time of a key and of a credential
// come nearer, with the daemon restarted at every step.
func TestAudit_Checked_WarnsOncePerStage(t *testing.T) {
	for name, c := range map[string]struct {
		of   func(expires time.Time) hsm.Info
		want string
		last account.Severity
	}{
		"key": {func(at time.Time) hsm.Info { return hsm.Info{KeyID: "k/1", Expires: at} },
			"keyExpiring:30 keyExpiring:7 keyExpiring:1 keyExpired", account.SeverityError},
		"credential": {func(at time.Time) hsm.Info { return hsm.Info{KeyID: "k/1", CredentialExpires: at} },
			"credentialExpiring:30 credentialExpiring:7 credentialExpiring:1 credentialExpired", account.SeverityAlert},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuditor(t)
			expires := a.now.Add(40 * 24 * time.Hour)
			for end := expires.Add(48 * time.Hour); a.now.Before(end); a.now = a.now.Add(6 * time.Hour) {
				a.Checked(c.of(expires), nil, account.KeyParams{KeyID: "k/1"})
				a.Checked(c.of(expires), vaultSilent, account.KeyParams{})
				a.Checked(hsm.Info{}, nil, account.KeyParams{}) // the attributes could not be read
				a.restart()
			}
			var got []string
			var all []account.Event
			for _, e := range a.events() {
				if e.Kind == account.AuditAvailable || e.Kind == account.AuditNotAvailable {
					continue
				}
				all = append(all, e)
				got = append(got, strings.TrimSuffix(e.Kind+":"+e.Detail["days"], ":"))
			}
			if strings.Join(got, " ") != c.want {
				t.Fatal(got)
			}
			for i, want := range []account.Severity{account.SeverityNotice, account.SeverityError, account.SeverityAlert, c.last} {
				if all[i].Severity != want || all[i].KeyID != "k/1" {
					t.Errorf("%+v, want %s", all[i], want)
				}
			}

			// Renewed, it is another matter; and what passed unseen is not told.
			renewed := a.now.Add(5 * 24 * time.Hour)
			a.Checked(c.of(a.now.Add(31*24*time.Hour)), nil, account.KeyParams{})
			before := len(a.events())
			a.Checked(c.of(renewed), nil, account.KeyParams{})
			after := a.events()
			if len(after) != before+1 || after[before].Detail["days"] != "7" {
				t.Errorf("%+v", after[before:])
			}
		})
	}
}

func TestAudit_Lease_BlockedAndActive(t *testing.T) {
	a := newAuditor(t)
	state := func(s account.State, operator bool) account.Lease {
		return account.Lease{State: s, Operator: operator, Cause: account.EventDenied, Code: "KeyDisabled", Reason: "not enabled"}
	}
	var at account.Lease
	to := func(l account.Lease) {
		a.Lease(at, l, account.LeaseEvent{Kind: account.EventDenied}, account.KeyParams{KeyID: "k"})
		at = l
	}
	to(state(account.StateOnline, false))
	to(state(account.StateSuspending, true)) // an operator's wish says nothing about the key
	to(state(account.StateSuspended, true))
	to(state(account.StateRestoring, false))
	to(state(account.StateOnline, false))
	to(state(account.StateDegraded, false))
	to(state(account.StateSuspending, false))
	to(state(account.StateSuspended, false))
	a.restart()
	to(state(account.StateSuspended, false))
	to(state(account.StateRestoring, false))
	to(state(account.StateOnline, false))
	var got []string
	for _, e := range a.events() {
		s := e.Kind
		if e.Kind == account.AuditStateChanged {
			s = e.From + ">" + e.To
		}
		got = append(got, s)
	}
	want := ">online online>suspending suspending>suspended suspended>restoring restoring>online online>degraded degraded>suspending blocked suspending>suspended suspended>restoring restoring>online active"
	if strings.Join(got, " ") != want {
		t.Error(got)
	}
	if e := a.events(account.AuditBlocked)[0]; e.Severity != account.SeverityAlert || e.Reason != "not enabled" || e.Detail["code"] != "KeyDisabled" || e.KeyID != "k" {
		t.Errorf("%+v", e)
	}
}

// TestAudit_Operations_ChecksShareLines counts a month of checks once a minute
// with an outage in it: the lines stand for every operation, and they are few.
func TestAudit_Operations_ChecksShareLines(t *testing.T) {
	a := newAuditor(t)
	asked := map[string]int{}
	check := func(ops ...hsm.Operation) {
		for _, o := range ops {
			asked[o.Op+string(o.Kind)]++
		}
		a.Operations(account.KeyCall{Purpose: account.PurposeCheck, Params: account.KeyParams{KeyID: "k/1"}, Operations: ops})
		a.now = a.now.Add(time.Minute)
	}
	good := func() { check(hsm.Operation{Op: "decrypt", Took: time.Millisecond}, hsm.Operation{Op: "get"}) }
	for range 5 * 24 * 60 {
		good()
	}
	var refused hsm.Operation
	refused.Op = "decrypt"
	refused.Fail(keyDisabled)
	for range 300 {
		check(refused)
	}
	for range 24 * 60 {
		good()
	}
	a.restart()
	told := map[string]int{}
	failures := 0
	for _, e := range a.events() {
		n := 1
		if c := e.Detail["count"]; c != "" {
			fmt.Sscan(c, &n)
		}
		kind := ""
		if r := e.Detail["result"]; r != "ok" {
			kind = r
			failures++
			if e.Severity != account.SeverityError || e.Detail["code"] != "KeyDisabled" || e.Reason == "" {
				t.Errorf("%+v", e)
			}
		}
		told[e.Detail["operation"]+kind] += n
	}
	if fmt.Sprint(told) != fmt.Sprint(asked) {
		t.Errorf("told %v, asked %v", told, asked)
	}
	if n := len(a.events()); n > 2*(6*24+3)+110 || failures < 100 {
		t.Errorf("%d lines, %d of failures", n, failures)
	}
}

// TestAudit_Operations_KeysOfARotation: answers about several account encryption
// keys, wrapped by different versions, do not interrupt each other; those of one
// that is dropped are told all the same.
func TestAudit_Operations_KeysOfARotation(t *testing.T) {
	a := newAuditor(t)
	check := func(ids ...string) {
		for _, id := range ids {
			a.Operations(account.KeyCall{Purpose: account.PurposeCheck, AEKID: id, Operations: []hsm.Operation{{Op: "decrypt", KeyID: "k/" + id}}})
		}
		a.now = a.now.Add(time.Minute)
	}
	for range 30 {
		check("old", "new")
	}
	if n := len(a.events()); n != 2 {
		t.Errorf("%d lines", n)
	}
	for range 150 {
		check("new")
	}
	count := map[string]int{}
	for _, e := range a.events() {
		n := 1
		if c := e.Detail["count"]; c != "" {
			fmt.Sscan(c, &n)
		}
		count[e.KeyID] += n
	}
	if count["k/old"] != 30 || len(a.events()) > 7 {
		t.Errorf("%v in %d lines", count, len(a.events()))
	}
}

// TestAudit_Operations_OthersAreSingle: what is asked for a volume or a change
// has a line each.
func TestAudit_Operations_OthersAreSingle(t *testing.T) {
	a := newAuditor(t)
	for range 3 {
		a.Operations(account.KeyCall{Purpose: "release", Volume: "v", Operations: []hsm.Operation{{Op: "decrypt", KeyID: "k/1", Took: 5 * time.Millisecond}}})
	}
	all := a.events(account.AuditKeyOperation)
	if len(all) != 3 || all[2].Volume != "v" || all[2].KeyID != "k/1" || all[2].Detail["ms"] != "5" || all[2].Severity != account.SeverityInformational {
		t.Errorf("%+v", all)
	}
}

// TestAudit_FullDisk: a log that cannot be written stops nobody, and what it
// lacks is in the daemon's log.
func TestAudit_FullDisk(t *testing.T) {
	a := newAuditor(t)
	a.Record(account.Event{Kind: account.AuditVolumeMounted})
	if err := a.BreakLog(); err != nil {
		t.Fatal(err)
	}
	a.Checked(hsm.Info{}, vaultSilent, account.KeyParams{})
	if s := a.log.String(); !strings.Contains(s, "msg=notAvailable") || !strings.Contains(s, "the audit log cannot be written") {
		t.Error(s)
	}
	if n := a.Lost(); n != 1 {
		t.Errorf("%d events lost", n)
	}
	a.open()
	a.Checked(hsm.Info{}, vaultSilent, account.KeyParams{}) // was not told, so it is told now
	if got := a.kinds(); got != "volume-mounted notAvailable" {
		t.Error(got)
	}
}

func TestOpenAudit_SaysThatLinesAreMissing(t *testing.T) {
	a := newAuditor(t)
	for range 5 {
		a.Record(account.Event{Kind: account.AuditVolumeMounted})
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(a.dir.Path(), "accounts", "a", "events.jsonl")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Join(bytes.SplitAfter(b, []byte("\n"))[:2], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	a.open()
	a.Record(account.Event{Kind: account.AuditVolumeMounted})
	var broken *account.ChainError
	got, err := readEvents(a.dir, 0)
	if !errors.As(err, &broken) || broken.Line != 3 || strings.Join(got, " ") != "volume-mounted volume-mounted log-truncated volume-mounted" {
		t.Errorf("%v %v", got, err)
	}
}
