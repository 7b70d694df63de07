package keyagent

import (
	"errors"
	"time"

	"cmkfs/hsm"
)

// SocketFD is where the agent process finds its end of the socket pair.
const SocketFD = 3

const (
	maxMessage   = 64 << 10 // bytes of one message either way
	keysPerReply = 64       // a list of keys is sent in parts, so that each fits
)

const (
	opExamine  = "examine"
	opNewAEK   = "new-aek"
	opRewrap   = "rewrap"
	opCheck    = "check"
	opNewVEK   = "new-vek"
	opRelease  = "release"
	opReseal   = "reseal"
	opListKeys = "list-keys"
	opIdentify = "identify"
	opProve    = "prove"
)

// request is one call. A release has the worker's socket attached to it.
type request struct {
	ID       uint64      `json:"id"`
	Op       string      `json:"op"`
	Millis   int64       `json:"millis"` // time the agent has for it, a little less than the client waits
	StateDir string      `json:"stateDir,omitempty"`
	Key      hsm.Config  `json:"key"`
	AEKID    string      `json:"aekId,omitempty"`
	AEK      *AEK        `json:"aek,omitempty"`
	VolumeID []byte      `json:"volumeId,omitempty"`
	VEK      *VEK        `json:"vek,omitempty"`
	From     *Under      `json:"from,omitempty"`     // of a reseal: the key that VEK is under
	Location string      `json:"location,omitempty"` // identify: the account's
	NewKey   *hsm.Config `json:"newKey,omitempty"`   // of a rewrap
}

// reply answers the request with the same ID. The first one to each says only
// that it was read (Accepted), at once, which tells an agent that hangs from a
// key that takes its time. Only list-keys has several others: all but the last
// have More set.
type reply struct {
	ID       uint64 `json:"id"`
	Accepted bool   `json:"accepted,omitempty"`
	More     bool   `json:"more,omitempty"`

	Error *wireError `json:"error,omitempty"`
	Info  *hsm.Info  `json:"info,omitempty"`
	AEK   *AEK       `json:"aek,omitempty"`
	VEK   *VEK       `json:"vek,omitempty"`
	Keys  []hsm.Info `json:"keys,omitempty"`

	// Operations is what was asked of keys, in order, also if it failed.
	Operations []hsm.Operation `json:"operations,omitempty"`
}

// wireError is an *hsm.Error as it crosses the socket; the cause becomes text.
type wireError struct {
	Op         string        `json:"op"`
	KeyID      string        `json:"keyId,omitempty"`
	Kind       hsm.Kind      `json:"kind"`
	Condition  hsm.Condition `json:"condition,omitempty"`
	Reason     string        `json:"reason,omitempty"`
	Message    string        `json:"message,omitempty"`
	Hint       string        `json:"hint,omitempty"`
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	Cause      string        `json:"cause,omitempty"`
}

func toWire(op string, err error) *wireError {
	if err == nil {
		return nil
	}
	var e *hsm.Error
	if !errors.As(err, &e) {
		return &wireError{Op: op, Kind: hsm.KindOf(err), Message: "The key operation failed", Cause: err.Error()}
	}
	w := &wireError{Op: e.Op, KeyID: e.KeyID, Kind: e.Kind, Condition: e.Condition, Reason: e.Reason, Message: e.Message, Hint: e.Hint, RetryAfter: e.RetryAfter}
	if e.Err != nil {
		w.Cause = e.Err.Error()
	}
	return w
}

func (w *wireError) toError() error {
	if w == nil {
		return nil
	}
	e := &hsm.Error{Op: w.Op, KeyID: w.KeyID, Kind: w.Kind, Condition: w.Condition, Reason: w.Reason, Message: w.Message, Hint: w.Hint, RetryAfter: w.RetryAfter}
	if w.Cause != "" {
		e.Err = errors.New(w.Cause)
	}
	return e
}
