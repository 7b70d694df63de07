package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"cmkfs/fs"
	"cmkfs/meta"
)

func TestErrno_Table(t *testing.T) {
	want := map[error]syscall.Errno{
		meta.ErrNotFound: syscall.ENOENT, meta.ErrExist: syscall.EEXIST, meta.ErrNotEmpty: syscall.ENOTEMPTY,
		meta.ErrNotDir: syscall.ENOTDIR, meta.ErrIsDir: syscall.EISDIR, meta.ErrInvalid: syscall.EINVAL,
		meta.ErrNameTooLong: syscall.ENAMETOOLONG, meta.ErrTooManyLink: syscall.EMLINK, meta.ErrNoSpace: syscall.ENOSPC,
		meta.ErrQuota: syscall.ENOSPC, meta.ErrTooBig: syscall.EFBIG, meta.ErrNoAttr: syscall.ENODATA,
		meta.ErrAttrTooBig: syscall.E2BIG, meta.ErrRange: syscall.ENXIO, meta.ErrUnsupported: syscall.EOPNOTSUPP,
		meta.ErrPerm: syscall.EPERM, meta.ErrStale: syscall.ESTALE, meta.ErrReadOnly: syscall.EROFS,
		meta.ErrFailed: syscall.EIO, meta.ErrClosed: syscall.EIO,
	}
	if len(want) != len(fs.Errnos()) {
		t.Errorf("the table has %d rows, this test knows %d", len(fs.Errnos()), len(want))
	}
	for err, errno := range want {
		if got := fs.Errno(err); got != errno {
			t.Errorf("%v: %v, want %v", err, got, errno)
		}
		if got := fs.Errno(fmt.Errorf("context: %w", err)); got != errno {
			t.Errorf("wrapped %v: %v, want %v", err, got, errno)
		}
	}
	if got := fs.Errno(nil); got != 0 {
		t.Errorf("nil: %v", got)
	}
	for _, err := range []error{errors.New("unknown"), &meta.CorruptError{Where: "segment 1", Err: errors.New("x")}} {
		if got := fs.Errno(err); got != syscall.EIO {
			t.Errorf("%v: %v, want EIO", err, got)
		}
	}
}

func TestErrorLog_ShowsOriginalsOnce(t *testing.T) {
	var log bytes.Buffer
	corrupt := &meta.CorruptError{Where: "segment 1", Err: errors.New("tag mismatch")}
	other := &meta.CorruptError{Where: "segment 2", Err: errors.New("tag mismatch")}
	fs.Status(&log, false, corrupt, corrupt, meta.ErrNotFound, other, corrupt)
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want 2:\n%s", n, &log)
	}
}

func TestErrorLog_AbandonsWhenTheVolumeStopped(t *testing.T) {
	var log bytes.Buffer
	if _, abandoned := fs.Status(&log, true, fmt.Errorf("write: %w", meta.ErrFailed)); !abandoned {
		t.Error("answered, though the next worker gets it")
	}
	if st, abandoned := fs.Status(&log, false, meta.ErrFailed); abandoned || syscall.Errno(st) != syscall.EIO {
		t.Errorf("without resending: %v", st)
	}
}
