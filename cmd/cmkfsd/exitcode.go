package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// The exit codes. They are promised in docs/commands.md and never change their
// meaning.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitFindings    = 4
	exitDenied      = 5
	exitUnreachable = 6
	exitNoDaemon    = 7
	exitBusy        = 8
	exitSuspended   = 9
	exitDamaged     = 10
)

// exits is the one table from what went wrong to the exit code, with what to
// do next. A hint may be more special: see hints.
var exits = map[api.Code]struct {
	exit int
	hint string
}{
	api.CodeInvalid:       {exitUsage, "see --help of the command"},
	api.CodeNotFound:      {exitNotFound, "see what there is: cmkfsd volume list, cmkfsd status"},
	api.CodeExists:        {exitBusy, "choose another name"},
	api.CodeBusy:          {exitBusy, "end what uses it and try again; cmkfsd status shows what is mounted"},
	api.CodeNotMounted:    {exitFailure, "mount it first: cmkfsd volume mount V MOUNTPOINT"},
	api.CodeSuspended:     {exitSuspended, "make the key available and run: cmkfsd volume restore-access --all"},
	api.CodeDenied:        {exitDenied, "check that the key is enabled and that get, encrypt and decrypt are permitted: cmkfsd account check"},
	api.CodeNetworkDenied: {exitDenied, "check the vault's firewall and private endpoint: cmkfsd account check"},
	api.CodeThrottled:     {exitUnreachable, "try again later"},
	api.CodeUnreachable:   {exitUnreachable, "see how far the connection gets: cmkfsd account check"},
	api.CodeMisconfigured: {exitDenied, "correct the key's configuration: cmkfsd account update --help"},
	api.CodeCorrupt:       {exitDamaged, "restore the volume from a backup; cmkfsd volume check V --scrub says what is damaged, --repair mends what can be"},
	api.CodeVersion:       {exitDamaged, "use the version of cmkfsd that wrote it, or a newer one"},
	api.CodeNoDaemon:      {exitNoDaemon, "start it: cmkfsd serve (volume mount starts it by itself)"},
	api.CodeFailed:        {exitFailure, ""},
}

// hints are for errors about which more is known than their code.
var hints = []struct {
	err  error
	hint string
}{
	{account.ErrUnsafeState, "make it yours alone (chown and chmod 0700), or choose another with --state-dir"},
	{account.ErrNoState, "name it with --state-dir, or begin one: cmkfsd account create --name A"},
	{account.ErrNoAccount, "create one: cmkfsd account create --name A"},
	{account.ErrAmbiguous, "name one with --account"},
	{account.ErrDaemonRuns, "use that daemon, or stop it first"},
	{account.ErrNotEmpty, "delete its volumes first: cmkfsd volume delete V"},
}

// badURI is the reason of an hsm.Error about a URI that names no key. It is the
// command that is wrong then, not the key.
const badURI = "BadURI"

// usageError is a command that cannot be understood.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

// findingsError ends a check that found something, which was printed already.
type findingsError struct {
	n        int
	repaired bool // what is left needs more than a repair
}

func (e *findingsError) Error() string {
	if e.n == 1 {
		return "the check has one finding"
	}
	return fmt.Sprintf("the check has %d findings", e.n)
}

// reportError prints an error as a sentence, what the vault or token answered,
// and what to do next, and returns its exit code.
func reportError(w io.Writer, err error) int {
	var other exitCode
	if errors.As(err, &other) {
		return int(other) // another process has printed what it was
	}
	exit, hint := classify(err)
	class := api.ErrorOf(err)
	fmt.Fprintf(w, "cmkfsd: %s\n", strings.TrimRight(class.Message, ".\n"))
	if class.Cause != "" {
		fmt.Fprintf(w, "  cause: %s\n", class.Cause)
	}
	if hint != "" {
		fmt.Fprintf(w, "  what to do next: %s\n", hint)
	}
	return exit
}

// hinted is an error with a hint of its own.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func classify(err error) (exit int, hint string) {
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage, cmp.Or(usage.hint, exits[api.CodeInvalid].hint)
	}
	var findings *findingsError
	if errors.As(err, &findings) {
		if findings.repaired {
			return exitFindings, "copy the volume's directory; then cmkfsd volume check V --repair --excise removes what cannot be read, and says what it was"
		}
		return exitFindings, "restore what is damaged from a backup; everything else can be copied from the mounted volume; or see cmkfsd volume check --repair"
	}
	var drills *drillsFailed
	if errors.As(err, &drills) {
		return exitFindings, "see above what was not held; --report DIR has the timeline, --seed the same run again"
	}
	class := api.ErrorOf(err)
	row := exits[class.Code]
	exit, hint = row.exit, row.hint
	if class.Reason == badURI {
		exit = exitUsage
	}
	hint = cmp.Or(class.Condition.Resolution(), hint)
	switch {
	case class.Hint != "" && class.Condition != "":
		hint = class.Hint + ". " + hint
	case class.Hint != "":
		hint = class.Hint
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			hint = h.hint
		}
	}
	var own *hinted
	if errors.As(err, &own) {
		hint = own.hint
	}
	return exit, hint
}

// exitSummary is the table in one line, for --help.
func exitSummary() string {
	return "0 done, 1 failure, 2 usage, 3 not found, 4 check findings, 5 key denied, 6 key unreachable, 7 no daemon, 8 busy, 9 suspended, 10 damaged data or unknown format"
}
