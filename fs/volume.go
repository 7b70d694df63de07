package fs

import (
	"context"

	"cmkfs/meta"
)

// Volume is what the adapter needs of a volume; *meta.Volume is one. Methods
// are called concurrently, do not keep the slices they are given, and end with
// the errors of package meta.
type Volume interface {
	Lookup(parent uint64, name string) (meta.Attr, error)
	GetAttr(ino uint64) (meta.Attr, error)
	SetAttr(c meta.Caller, ino uint64, s meta.SetAttr) (meta.Attr, error)
	Mknod(c meta.Caller, parent uint64, name string, mode, rdev uint32) (meta.Attr, error)
	Mkdir(c meta.Caller, parent uint64, name string, mode uint32) (meta.Attr, error)
	Symlink(c meta.Caller, parent uint64, name, target string) (meta.Attr, error)
	Readlink(ino uint64) (string, error)
	Link(c meta.Caller, ino, parent uint64, name string) (meta.Attr, error)
	Unlink(c meta.Caller, parent uint64, name string) error
	Rmdir(c meta.Caller, parent uint64, name string) error
	Rename(c meta.Caller, oldParent uint64, oldName string, newParent uint64, newName string, flags uint32) error
	Tmpfile(c meta.Caller, parent uint64, mode uint32) (meta.Attr, error)
	Read(ino uint64, dst []byte, off int64) (int, error)
	// Peek is Read that leaves the access time alone.
	Peek(ino uint64, dst []byte, off int64) (int, error)
	// Accessed notes that a directory or symbolic link was read.
	Accessed(ino uint64) error
	// SetAccessTimes says which access times reads change.
	SetAccessTimes(p meta.AccessTimes)
	Write(c meta.Caller, ino uint64, data []byte, off int64) (int, error)
	Fallocate(c meta.Caller, ino uint64, mode uint32, off, length int64) error
	CopyRange(c meta.Caller, src uint64, srcOff int64, dst uint64, dstOff int64, length int64) (int64, error)
	Seek(ino uint64, off int64, whence int) (int64, error)
	ReadDir(ino, cookie uint64, fn func(meta.DirEntry) bool) error
	GetXattr(ino uint64, name string) ([]byte, error)
	SetXattr(c meta.Caller, ino uint64, name string, value []byte, flags uint32) error
	ListXattr(ino uint64) ([]string, error)
	RemoveXattr(c meta.Caller, ino uint64, name string) error
	Sync(ctx context.Context) error
	// SyncFile is Sync, asked for because of one file.
	SyncFile(ctx context.Context, ino uint64) error
	Statfs() (meta.Usage, error)
	// Forget tells that the kernel let go of an inode; an unlinked one is
	// reclaimed then. TryForget is Forget if that need not wait; else done is
	// false.
	Forget(ino uint64) error
	TryForget(ino uint64) (done bool, err error)
	// Orphans lists the unlinked inodes that still exist.
	Orphans() []uint64
}
