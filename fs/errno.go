package fs

import (
	"errors"
	"log/slog"
	"sync"
	"syscall"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// errnos is the one table from the errors of a volume to those of the kernel.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{meta.ErrNotFound, syscall.ENOENT},
	{meta.ErrExist, syscall.EEXIST},
	{meta.ErrNotEmpty, syscall.ENOTEMPTY},
	{meta.ErrNotDir, syscall.ENOTDIR},
	{meta.ErrIsDir, syscall.EISDIR},
	{meta.ErrInvalid, syscall.EINVAL},
	{meta.ErrNameTooLong, syscall.ENAMETOOLONG},
	{meta.ErrTooManyLink, syscall.EMLINK},
	{meta.ErrNoSpace, syscall.ENOSPC},
	{meta.ErrQuota, syscall.ENOSPC},
	{meta.ErrTooBig, syscall.EFBIG},
	{meta.ErrNoAttr, syscall.ENODATA},
	{meta.ErrAttrTooBig, syscall.E2BIG},
	{meta.ErrRange, syscall.ENXIO},
	{meta.ErrUnsupported, syscall.EOPNOTSUPP},
	{meta.ErrPerm, syscall.EPERM},
	{meta.ErrStale, syscall.ESTALE},
	{meta.ErrReadOnly, syscall.EROFS},
	{meta.ErrFailed, syscall.EIO},
	{meta.ErrClosed, syscall.EIO},
}

// Errno maps an error of a volume to the kernel's; nil is 0. What it does not
// know is EIO: damaged data, and failures of the host's file system.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, row := range errnos {
		if errors.Is(err, row.err) {
			return row.errno
		}
	}
	return syscall.EIO
}

// statusAbandon is the status of a request that is left without an answer: the
// volume stopped, this worker ends, and the kernel gives the request to the
// next one. It is no errno, so it cannot be met otherwise.
const statusAbandon = fuse.Status(1 << 30)

// maxLogged bounds the distinct errors the log remembers having shown.
const maxLogged = 1000

// errorLog maps errors to statuses and logs, once each, those that applications
// only see as EIO.
type errorLog struct {
	log *slog.Logger
	// abandon: a request that failed because the volume stopped is left to
	// the next worker.
	abandon bool

	mu struct {
		sync.Mutex
		seen map[string]bool
	}
}

func newErrorLog(log *slog.Logger, abandon bool) *errorLog {
	l := &errorLog{log: log, abandon: abandon}
	l.mu.seen = make(map[string]bool)
	return l
}

// status is Errno for a handler, with the log entry.
func (l *errorLog) status(op string, ino uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if l.abandon && (errors.Is(err, meta.ErrFailed) || errors.Is(err, meta.ErrClosed)) {
		return statusAbandon
	}
	errno := Errno(err)
	if errno == syscall.EIO && l.first(err.Error()) {
		l.log.Error("request failed", "op", op, "ino", ino, "err", err)
	}
	return fuse.Status(errno)
}

// first reports whether a text was not logged before.
func (l *errorLog) first(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.seen[text] || len(l.mu.seen) >= maxLogged {
		return false
	}
	l.mu.seen[text] = true
	return true
}
