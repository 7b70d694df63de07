package account

import "log/slog"

// Severity is how urgent an event is, in the words of the storage engine's event
// system.
type Severity string

// The severities.
const (
	SeverityAlert         Severity = "ALERT"         // act now: data is not available or is about to be lost to its users
	SeverityError         Severity = "ERROR"         // act soon
	SeverityNotice        Severity = "NOTICE"        // worth knowing
	SeverityInformational Severity = "INFORMATIONAL" // for the record
)

// Level is the severity for a log.
func (s Severity) Level() slog.Level {
	switch s {
	case SeverityAlert, SeverityError:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// The kinds of the audit log's events. Those written in camel case have the
// names and meanings of the storage engine's. available and notAvailable say
// whether the key answers, active and blocked whether it opens volumes: a key
// that is disabled is available and blocked.
const (
	AuditAvailable          = "available"
	AuditNotAvailable       = "notAvailable"
	AuditActive             = "active"
	AuditBlocked            = "blocked"
	AuditKeyExpiring        = "keyExpiring"
	AuditKeyExpired         = "keyExpired"
	AuditCredentialExpiring = "credentialExpiring"
	AuditCredentialExpired  = "credentialExpired"
	AuditKeyVersionChanged  = "keyVersionChanged"
	AuditVolOffline         = "volOffline"
	AuditVolOnline          = "volOnline"

	AuditKeyOperation    = "key-operation"
	AuditStateChanged    = "state-changed"
	AuditLeaseChanged    = "lease-changed"
	AuditAccountCreated  = "account-created"
	AuditAccountUpdated  = "account-updated"
	AuditAccountRekeyed  = "account-rekeyed"
	AuditVolumeCreated   = "volume-created"
	AuditVolumeDeleted   = "volume-deleted"
	AuditVolumeMounted   = "volume-mounted"
	AuditVolumeUnmounted = "volume-unmounted"
	AuditVolumeDetached  = "volume-detached"

	AuditVolumeOlderAccepted = "volume-older-accepted"

	AuditVolumeRefusing  = "volume-refusing"
	AuditWorkerRestarted = "worker-restarted"
	AuditLeaseMissed     = "lease-missed"
	AuditLogTruncated    = "log-truncated"

	AuditKeyVersionRefused = "key-version-refused"

	AuditCredentialsRenewed    = "credentials-renewed"
	AuditCredentialsNotRenewed = "credentials-not-renewed"
	AuditIdentityChanged       = "identity-changed"

	// A rotation or transition, and one volume of it.
	AuditKeyMoveBegun    = "key-move-begun"
	AuditKeyMoveResumed  = "key-move-resumed"
	AuditKeyMoveStopped  = "key-move-stopped"
	AuditKeyMoveFinished = "key-move-finished"
	AuditVolumeKeyMoved  = "volume-key-moved"
)

// severities has every kind. A key operation that failed is an ERROR, and a
// warning of expiry gets more urgent as the time comes.
var severities = map[string]Severity{
	AuditAvailable:          SeverityNotice,
	AuditNotAvailable:       SeverityAlert,
	AuditActive:             SeverityNotice,
	AuditBlocked:            SeverityAlert,
	AuditKeyExpiring:        SeverityNotice,
	AuditKeyExpired:         SeverityError, // data stays available
	AuditCredentialExpiring: SeverityNotice,
	AuditCredentialExpired:  SeverityAlert, // access ends with it
	AuditKeyVersionChanged:  SeverityNotice,
	AuditVolOffline:         SeverityAlert,
	AuditVolOnline:          SeverityNotice,

	AuditKeyOperation:    SeverityInformational,
	AuditStateChanged:    SeverityNotice,
	AuditLeaseChanged:    SeverityNotice,
	AuditAccountCreated:  SeverityNotice,
	AuditAccountUpdated:  SeverityNotice,
	AuditAccountRekeyed:  SeverityNotice,
	AuditVolumeCreated:   SeverityNotice,
	AuditVolumeDeleted:   SeverityNotice,
	AuditVolumeMounted:   SeverityNotice,
	AuditVolumeUnmounted: SeverityNotice,
	AuditVolumeDetached:  SeverityNotice,

	AuditVolumeOlderAccepted: SeverityNotice,

	AuditVolumeRefusing:  SeverityError,
	AuditWorkerRestarted: SeverityError,
	AuditLeaseMissed:     SeverityAlert,
	AuditLogTruncated:    SeverityAlert,

	AuditKeyVersionRefused: SeverityError,

	AuditCredentialsRenewed:    SeverityNotice,
	AuditCredentialsNotRenewed: SeverityError,
	AuditIdentityChanged:       SeverityNotice,

	AuditKeyMoveBegun:    SeverityNotice,
	AuditKeyMoveResumed:  SeverityNotice,
	AuditKeyMoveStopped:  SeverityError,
	AuditKeyMoveFinished: SeverityNotice,
	AuditVolumeKeyMoved:  SeverityNotice,
}

// severityOf is an event's severity if its maker gave it none.
func severityOf(kind string) Severity {
	if s, ok := severities[kind]; ok {
		return s
	}
	return SeverityNotice
}
