package hsm

import (
	"errors"
	"time"
)

// Operation is one thing that was asked of a key, as an audit log tells it.
type Operation struct {
	Op    string        `json:"op"`              // get, encrypt, decrypt, wrapKey, unwrapKey, list; open if it did not get that far
	KeyID string        `json:"keyId,omitempty"` // with its version, where that is known
	Took  time.Duration `json:"took"`

	// Who asked, as far as the answer said.
	PrincipalID string `json:"principalId,omitempty"`
	ClientID    string `json:"clientId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`

	Kind    Kind   `json:"kind,omitempty"`    // the class of the failure; "" = it succeeded
	Reason  string `json:"reason,omitempty"`  // one word: KeyDisabled, …
	Message string `json:"message,omitempty"` // one sentence
}

// maxMessage bounds an operation's message, in bytes.
const maxMessage = 300

// Fail notes that the operation ended in err; nil changes nothing.
func (o *Operation) Fail(err error) {
	if err == nil {
		return
	}
	o.Kind, o.Message = KindOf(err), err.Error()
	var e *Error
	if errors.As(err, &e) {
		o.Reason = e.Reason
		if e.Message != "" {
			o.Message = e.Message
		}
		if e.KeyID != "" {
			o.KeyID = e.KeyID
		}
	}
	if len(o.Message) > maxMessage {
		o.Message = o.Message[:maxMessage] + "…"
	}
}
