package account

import (
	"errors"
	"fmt"
)

// What a lookup or a change of the state directory fails with, wrapped in a
// sentence that names the account or volume.
var (
	ErrInvalid     = errors.New("invalid setting")
	ErrNotFound    = errors.New("not found")
	ErrExist       = errors.New("already exists")
	ErrNotEmpty    = errors.New("still has volumes")
	ErrAmbiguous   = errors.New("more than one account")
	ErrNoAccount   = errors.New("no account yet")
	ErrNoState     = errors.New("no state directory")
	ErrDaemonRuns  = errors.New("another cmkfsd serves this state directory")
	ErrUnsafeState = errors.New("unsafe state directory")
	ErrLogTaken    = errors.New("another process writes the audit log")
)

// NameError reports a name that is not allowed.
type NameError struct {
	Kind string // account, volume
	Name string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("%q is not a valid %s name: use 1 to 64 letters, digits, dots, dashes and underscores, starting with a letter or digit", e.Name, e.Kind)
}

// VersionError reports a file of a format this program does not know.
type VersionError struct {
	File string
	Have int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has format version %d; this program knows version %d", e.File, e.Have, FormatVersion)
}

// subjectError is an error about one account or volume: the sentence for a
// person, and one of the sentinels above for errors.Is.
type subjectError struct {
	message string
	err     error
}

func (e *subjectError) Error() string { return e.message }
func (e *subjectError) Unwrap() error { return e.err }

func failf(err error, format string, args ...any) error {
	return &subjectError{message: fmt.Sprintf(format, args...), err: err}
}
