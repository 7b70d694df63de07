// Package report shows what a drill saw: as a table in the terminal while it
// runs, as JSON for machines, and as one self-contained HTML page with a plot.
package report

import "time"

// Report is one drill, from its first sample to its verdict. All times within
// it are offsets from Started.
type Report struct {
	Drill    string    `json:"drill"`
	Title    string    `json:"title"`
	Source   string    `json:"keySource"` // of the account that was drilled
	Volume   string    `json:"volume"`
	Version  string    `json:"version"` // of cmkfsd
	Seed     uint64    `json:"seed"`
	Started  time.Time `json:"started"`
	Duration Offset    `json:"duration"`

	Phases   []Phase  `json:"phases"`
	Timeline []Event  `json:"timeline"`
	Samples  []Sample `json:"samples"`
	Checks   []Check  `json:"checks"`

	// Detect, Stop and Recover are absent if the drill has no such moment.
	Detect  *Offset `json:"timeToDetect,omitempty"`  // from the fault to the state that says so
	Stop    *Offset `json:"timeToStop,omitempty"`    // from the daemon's decision to the last operation that succeeded
	Recover *Offset `json:"timeToRecover,omitempty"` // from the key's return (or the restore) to the first operation that succeeded

	Errors       []CallErrors  `json:"errors"`
	Acknowledged int64         `json:"writesAcknowledged"`
	Lost         int64         `json:"writesLost"`
	Plaintext    int64         `json:"plaintextFound"` // reads and memory searches after the stop that found data
	Expectations []Expectation `json:"expectations"`
	Passed       bool          `json:"passed"`

	// Failure says what kept the drill from being run to its end; a drill
	// with one has not passed.
	Failure string `json:"failure,omitempty"`
}

// Phase is a part of a drill: steady, outage, restored, verified.
type Phase struct {
	Name string `json:"name"`
	From Offset `json:"from"`
	To   Offset `json:"to"`
}

// Kinds of an event that the plot marks with a line.
const (
	Fault   = "fault"   // the outage begins
	Restore = "restore" // the outage ends
)

// Event is a line of the timeline.
type Event struct {
	At     Offset `json:"at"`
	Source string `json:"source"` // drill, daemon or application
	Text   string `json:"text"`
	Kind   string `json:"kind,omitempty"` // fault, restore, or none
}

// Sample is what happened in an interval of time that ends At.
type Sample struct {
	At       Offset `json:"at"`
	State    string `json:"state"` // of the account: online, degraded, suspending, suspended, restoring, or "no daemon"
	Mount    string `json:"mount"` // of the volume
	Reads    int64  `json:"reads"` // operations that succeeded
	Writes   int64  `json:"writes"`
	Metadata int64  `json:"metadata"`
	Errors   int64  `json:"errors"`
}

// Check is one check of the key.
type Check struct {
	At     Offset `json:"at"`
	Class  string `json:"class"` // ok, denied, network-denied, throttled, unreachable, misconfigured
	Detail string `json:"detail"`
}

// CallErrors counts how often a system call failed with an errno.
type CallErrors struct {
	Call  string `json:"call"`
	Errno string `json:"errno"`
	Count int64  `json:"count"`
}

// Expectation is one promise that the drill tests.
type Expectation struct {
	Text   string `json:"text"`
	Held   bool   `json:"held"`
	Detail string `json:"detail"`
}
