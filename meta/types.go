package meta

import "time"

// RootIno is the inode number, and FUSE node id, of a volume's root directory.
const RootIno = 1

// MaxName is the longest file name in bytes, as on ext4.
const MaxName = 255

// Caller says which request an operation answers and for whom. Session and
// Unique make a request that is delivered twice (a worker died between
// applying and answering it) answer from the journal instead of being applied
// again; a zero Session switches that off.
type Caller struct {
	Session uint64 // random number of the mount
	Unique  uint64 // FUSE request number without the resend bit
	UID     uint32
	GID     uint32
	Umask   uint32 // for operations that create
	// KillPriv asks a write or truncation to clear set-user-ID and, on an
	// executable, set-group-ID (FUSE_WRITE_KILL_SUIDGID, FATTR_KILL_SUIDGID).
	KillPriv bool
}

// Attr is what stat shows of an inode.
type Attr struct {
	Ino    uint64
	Mode   uint32 // type and permission bits, as in st_mode
	Nlink  uint32
	UID    uint32
	GID    uint32
	Rdev   uint32
	Size   uint64 // bytes
	Blocks uint64 // 512-byte units
	Atime  time.Time
	Mtime  time.Time
	Ctime  time.Time
	Btime  time.Time // creation
}

// SetAttr names the attributes an operation changes; nil leaves one alone.
type SetAttr struct {
	Mode  *uint32 // permission bits only
	UID   *uint32
	GID   *uint32
	Size  *uint64
	Atime *time.Time
	Mtime *time.Time
	Ctime *time.Time
}

// DirEntry is one name in a directory.
type DirEntry struct {
	Name   string
	Ino    uint64
	Mode   uint32 // type bits only
	Cookie uint64 // position after this entry, for ReadDir; below 1<<63
}

// Usage is what statfs shows.
type Usage struct {
	QuotaBytes uint64 // 0 = limited by the host only
	UsedBytes  uint64 // logical, in whole 4 KiB blocks
	FreeBytes  uint64 // what can still be written: quota and host considered
	Files      uint64
}

// Rename flags, with the values of renameat2(2).
const (
	RenameNoReplace = 1
	RenameExchange  = 2
	RenameWhiteout  = 4
)

// Fallocate modes, with the values of fallocate(2).
const (
	FallocKeepSize  = 0x01
	FallocPunchHole = 0x02
	FallocZeroRange = 0x10
)
