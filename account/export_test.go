package account

import "time"

// Table is the transition table, for the test that it is complete.
var Table = table

// CheckEvent is how a check's answer becomes an event.
var CheckEvent = checkEvent

// SetNow gives the audit another clock.
func (a *Audit) SetNow(now func() time.Time) { a.now = now }

// BreakLog lets every later append fail.
func (a *Audit) BreakLog() error { return a.file.Close() }
