package meta

import (
	"errors"
	"fmt"

	"cmkfs/crypto"
)

// The errors an operation ends with. fs/errno.go maps them to errno.
var (
	ErrNotFound    = errors.New("no such file or directory")         // ENOENT
	ErrExist       = errors.New("file exists")                       // EEXIST
	ErrNotEmpty    = errors.New("directory not empty")               // ENOTEMPTY
	ErrNotDir      = errors.New("not a directory")                   // ENOTDIR
	ErrIsDir       = errors.New("is a directory")                    // EISDIR
	ErrInvalid     = errors.New("invalid argument")                  // EINVAL
	ErrNameTooLong = errors.New("file name too long")                // ENAMETOOLONG
	ErrTooManyLink = errors.New("too many links")                    // EMLINK
	ErrNoSpace     = errors.New("no space left")                     // ENOSPC: host directory full
	ErrQuota       = errors.New("volume quota exceeded")             // ENOSPC: statfs shows the quota as the size
	ErrTooBig      = errors.New("file too large")                    // EFBIG
	ErrNoAttr      = errors.New("no such extended attribute")        // ENODATA
	ErrAttrTooBig  = errors.New("extended attribute too large")      // E2BIG / ENOSPC
	ErrRange       = errors.New("offset beyond end of data")         // ENXIO (SEEK_DATA, SEEK_HOLE)
	ErrUnsupported = errors.New("operation not supported")           // EOPNOTSUPP
	ErrPerm        = errors.New("operation not permitted")           // EPERM
	ErrStale       = errors.New("stale file handle")                 // ESTALE: node id of no inode
	ErrReadOnly    = errors.New("volume is read-only")               // EROFS
	ErrFailed      = errors.New("volume stopped after an I/O error") // EIO
	ErrClosed      = errors.New("volume is closed")                  // EIO
)

// CorruptError reports data on disk that is damaged or was tampered with. The
// operation that met it fails with EIO; nothing else does.
type CorruptError struct {
	Where string // file and position, never a user's file name
	Err   error
}

func (e *CorruptError) Error() string { return fmt.Sprintf("corrupt volume: %s: %v", e.Where, e.Err) }
func (e *CorruptError) Unwrap() error { return e.Err }

// damagedPages is a CorruptError for each page of the index that is not as it
// was written.
type damagedPages struct{ pages []uint64 }

func (e *damagedPages) Error() string { return e.Unwrap()[0].Error() }

func (e *damagedPages) Unwrap() (errs []error) {
	for _, page := range e.pages {
		errs = append(errs, &CorruptError{Where: fmt.Sprintf("%s page %d", indexName, page), Err: crypto.ErrAuth})
	}
	return errs
}

// VersionError reports an on-disk format this program does not know.
type VersionError struct {
	Have, Min, Max uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("volume format %d is not supported: this program knows %d to %d", e.Have, e.Min, e.Max)
}
