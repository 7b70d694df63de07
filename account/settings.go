package account

import (
	"encoding/json"
	"regexp"
	"time"
)

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName refuses a name that cannot be a folder of the state directory.
// kind is "account" or "volume", for the message.
func CheckName(kind, name string) error {
	if !nameRE.MatchString(name) {
		return &NameError{Kind: kind, Name: name}
	}
	return nil
}

// Duration is a time.Duration written as "1m30s" in JSON.
type Duration time.Duration

// String writes d as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes d as a string.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// Values of Policy.Recovery.
const (
	RecoveryManual    = "manual"    // restore-access brings volumes back
	RecoveryAutomatic = "automatic" // a check that succeeds does
)

// Values of Policy.OnSuspend.
const (
	OnSuspendError = "error" // requests fail at once
	OnSuspendBlock = "block" // requests wait, killable
)

// Policy says how often the key is checked and what follows from the answer.
type Policy struct {
	CheckInterval          Duration `json:"checkInterval"`          // while the last check succeeded
	CheckIntervalUnhealthy Duration `json:"checkIntervalUnhealthy"` // while it did not
	OutageGrace            Duration `json:"outageGrace"`            // how long volumes stay open after the last success
	Recovery               string   `json:"recovery"`               // manual, automatic
	OnSuspend              string   `json:"onSuspend"`              // error, block
	SuspendErrno           string   `json:"suspendErrno"`           // ENOKEY, EIO
}

// DefaultPolicy is the policy of a new account.
func DefaultPolicy() Policy {
	return Policy{
		CheckInterval:          Duration(60 * time.Second),
		CheckIntervalUnhealthy: Duration(10 * time.Second),
		OutageGrace:            Duration(10 * time.Minute),
		Recovery:               RecoveryManual,
		OnSuspend:              OnSuspendError,
		SuspendErrno:           "ENOKEY",
	}
}

// Validate refuses a policy under which no volume could stay open.
func (p Policy) Validate() error {
	switch {
	case p.CheckInterval <= 0 || p.CheckIntervalUnhealthy <= 0:
		return failf(ErrInvalid, "the check intervals must be longer than 0 (have %s and %s)", p.CheckInterval, p.CheckIntervalUnhealthy)
	case p.OutageGrace <= p.CheckInterval:
		return failf(ErrInvalid, "the outage grace (%s) must be longer than the check interval (%s), or the lease would run out between two checks", p.OutageGrace, p.CheckInterval)
	case p.Recovery != RecoveryManual && p.Recovery != RecoveryAutomatic:
		return failf(ErrInvalid, "recovery is manual or automatic, not %q", p.Recovery)
	case p.OnSuspend != OnSuspendError && p.OnSuspend != OnSuspendBlock:
		return failf(ErrInvalid, "on-suspend is error or block, not %q", p.OnSuspend)
	case p.SuspendErrno != "ENOKEY" && p.SuspendErrno != "EIO":
		return failf(ErrInvalid, "suspend-errno is ENOKEY or EIO, not %q", p.SuspendErrno)
	}
	return nil
}
