package keyagent

import (
	"context"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure"
)

// Call is one call of the agent that has ended, as an audit log needs it.
type Call struct {
	Op         string          // examine, new-aek, check, new-vek, release, list-keys, …
	Key        hsm.Config      // which was asked
	AEKID      string          // for which account encryption key, if for one
	Operations []hsm.Operation // what it was asked; empty if the agent gave no answer
	Err        error           // of the call
	Took       time.Duration   // all together
}

// maxTraced bounds the operations of one reply, so that it fits into a message.
const maxTraced = 32

// trace notes what a request asks of keys. Requests ask one thing after the
// other, so it needs no lock.
type trace struct{ operations []hsm.Operation }

type traceKey struct{}

func withTrace(ctx context.Context) (context.Context, *trace) {
	t := &trace{}
	return context.WithValue(ctx, traceKey{}, t), t
}

// traceOf returns the request's trace, or one that nobody reads.
func traceOf(ctx context.Context) *trace {
	if t, ok := ctx.Value(traceKey{}).(*trace); ok {
		return t
	}
	return &trace{}
}

// note adds an operation and returns it, to be completed.
func (t *trace) note(op, keyID string, began time.Time, err error) *hsm.Operation {
	if len(t.operations) == maxTraced {
		return &hsm.Operation{}
	}
	o := hsm.Operation{Op: op, KeyID: keyID, Took: time.Since(began)}
	o.Fail(err)
	t.operations = append(t.operations, o)
	return &t.operations[len(t.operations)-1]
}

// traced is a key that notes what it is asked.
type traced struct {
	hsm.Key
	trace            *trace
	encrypt, decrypt string // what the vault calls them
}

func newTraced(k hsm.Key, c hsm.Config, t *trace) hsm.Key {
	if c.Azure != nil && c.Azure.Permissions == azure.WrapUnwrap {
		return &traced{k, t, "wrapKey", "unwrapKey"}
	}
	return &traced{k, t, "encrypt", "decrypt"}
}

// Info implements hsm.Key.
func (k *traced) Info(ctx context.Context) (hsm.Info, error) {
	began := time.Now()
	info, err := k.Key.Info(ctx)
	o := k.trace.note("get", info.KeyID, began, err)
	o.PrincipalID, o.ClientID, o.TenantID = info.PrincipalID, info.ClientID, info.TenantID
	return info, err
}

// Wrap implements hsm.Key.
func (k *traced) Wrap(ctx context.Context, plaintext []byte) (hsm.Wrapped, error) {
	began := time.Now()
	w, err := k.Key.Wrap(ctx, plaintext)
	k.trace.note(k.encrypt, w.KeyID, began, err)
	return w, err
}

// Unwrap implements hsm.Key.
func (k *traced) Unwrap(ctx context.Context, w hsm.Wrapped) ([]byte, error) {
	began := time.Now()
	b, err := k.Key.Unwrap(ctx, w)
	k.trace.note(k.decrypt, w.KeyID, began, err)
	return b, err
}
