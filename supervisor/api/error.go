package api

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"cmkfs/account"
	"cmkfs/hsm"
)

// Code classes a failure. Exit codes and hints follow from it.
type Code string

// The codes.
const (
	CodeInvalid       Code = "invalid"        // the request cannot be carried out by anybody
	CodeNotFound      Code = "not-found"      // no such account, volume, mount point
	CodeExists        Code = "exists"         // the name is taken
	CodeBusy          Code = "busy"           // mounted, in use, locked by another process
	CodeNotMounted    Code = "not-mounted"    // the volume is not mounted
	CodeSuspended     Code = "suspended"      // the account or volume is suspended
	CodeDenied        Code = "denied"         // hsm.KindDenied
	CodeNetworkDenied Code = "network-denied" // hsm.KindNetworkDenied
	CodeThrottled     Code = "throttled"      // hsm.KindThrottled
	CodeUnreachable   Code = "unreachable"    // hsm.KindUnreachable
	CodeMisconfigured Code = "misconfigured"  // hsm.KindMisconfigured
	CodeCorrupt       Code = "corrupt"        // data on disk is damaged
	CodeVersion       Code = "version"        // a format this program does not know
	CodeNoDaemon      Code = "no-daemon"      // only the client makes it
	CodeFailed        Code = "failed"         // everything else
)

// httpStatus is the status code sent for each code.
var httpStatus = map[Code]int{
	CodeInvalid:       http.StatusBadRequest,
	CodeNotFound:      http.StatusNotFound,
	CodeExists:        http.StatusConflict,
	CodeBusy:          http.StatusConflict,
	CodeNotMounted:    http.StatusConflict,
	CodeSuspended:     http.StatusConflict,
	CodeDenied:        http.StatusForbidden,
	CodeNetworkDenied: http.StatusForbidden,
	CodeMisconfigured: http.StatusBadRequest,
	CodeThrottled:     http.StatusServiceUnavailable,
	CodeUnreachable:   http.StatusServiceUnavailable,
}

// Error is a failure as it crosses the socket.
type Error struct {
	Code      Code          `json:"code"`
	Message   string        `json:"message"`             // one sentence
	Condition hsm.Condition `json:"condition,omitempty"` // which of the errors users know by their sentence
	Reason    string        `json:"reason,omitempty"`    // of an hsm.Error: KeyDisabled, …
	Cause     string        `json:"cause,omitempty"`     // of an hsm.Error: what the vault or token answered
	Hint      string        `json:"hint,omitempty"`      // what to do, where more is known than the code says
	err       error
}

// Errorf makes an Error of a class from a sentence.
func Errorf(code Code, message string) *Error { return &Error{Code: code, Message: message} }

// Refuse makes the Error of a condition.
func Refuse(code Code, c hsm.Condition) *Error {
	return &Error{Code: code, Message: c.Error(), Condition: c}
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is(err, hsm.SourceFixed) work.
func (e *Error) Is(target error) bool {
	c, ok := target.(hsm.Condition)
	return ok && c == e.Condition
}

func (e *Error) Unwrap() error { return e.err }

// ErrorOf classes any error. It is the one place where errors of the control
// plane become codes.
func ErrorOf(err error) *Error {
	var (
		apiErr *Error
		keyErr *hsm.Error
		name   *account.NameError
		ver    *account.VersionError

		suspended *account.SuspendedError
	)
	if errors.As(err, &apiErr) {
		e := *apiErr
		e.Message, e.err = err.Error(), err
		return &e
	}
	e := &Error{Code: CodeFailed, Message: err.Error(), err: err}
	switch {
	case errors.As(err, &keyErr):
		e.Code, e.Condition, e.Reason = Code(keyErr.Kind), keyErr.Condition, keyErr.Reason
		e.Cause, e.Hint = keyErr.Cause(), keyErr.Hint
		// What was seen has a place of its own.
		e.Message = strings.Replace(e.Message, keyErr.Error(), keyErr.Sentence(), 1)
	case errors.As(err, &name), errors.Is(err, account.ErrInvalid), errors.Is(err, account.ErrAmbiguous), errors.Is(err, account.ErrUnsafeState):
		e.Code = CodeInvalid
	case errors.Is(err, account.ErrNoCustomerKey):
		e.Code, e.Hint = CodeInvalid, "configure one: cmkfsd account update --key-uri URI, or --pkcs11-uri URI"
	case errors.Is(err, account.ErrOtherVault):
		e.Code, e.Hint = CodeInvalid, "choose a key of the same vault or token: cmkfsd account list-keys"
	case errors.Is(err, account.ErrSameKey):
		e.Code, e.Hint = CodeInvalid, "choose another key: cmkfsd account list-keys; new versions of the present one are followed without a command"
	case errors.As(err, &ver):
		e.Code = CodeVersion
	case errors.Is(err, account.ErrNotFound), errors.Is(err, account.ErrNoAccount), errors.Is(err, account.ErrNoState), errors.Is(err, fs.ErrNotExist):
		e.Code = CodeNotFound
	case errors.Is(err, account.ErrExist):
		e.Code = CodeExists
	case errors.As(err, &suspended):
		e.Code = CodeSuspended
	case errors.Is(err, account.ErrRekey):
		e.Code, e.Hint = CodeBusy, "replace the key by another one of the same vault or token while volumes use it: cmkfsd account rekey"
	case errors.Is(err, account.ErrNotEmpty), errors.Is(err, account.ErrDaemonRuns):
		e.Code = CodeBusy
	case errors.Is(err, account.ErrOneWay):
		e.Code, e.Hint = CodeBusy, "what is under a customer-managed key stays there; platform-managed volumes can be made in a new account: cmkfsd account create --name B"
	case errors.Is(err, context.DeadlineExceeded):
		e.Code = CodeUnreachable
	}
	return e
}

type errorBody struct {
	Error *Error `json:"error"`
}

// WriteError answers a request with a failure.
func WriteError(w http.ResponseWriter, err error) {
	e := ErrorOf(err)
	status, ok := httpStatus[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that is gone does not read it; nothing can be done about that.
	_ = json.NewEncoder(w).Encode(errorBody{e})
}
