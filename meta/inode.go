package meta

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// inode is the decoded value of tableInode.
type inode struct {
	ino    uint64 // from the key
	mode   uint32
	nlink  uint32
	uid    uint32
	gid    uint32
	rdev   uint32
	size   uint64 // bytes; 4096 for a directory, the target's length for a symbolic link
	pages  uint64 // mapped 4 KiB pages, in a segment or inline
	parent uint64 // directories: the directory above
	// entries counts a directory's entries, so that rmdir needs no scan.
	entries uint64
	inline  uint32 // how many of the pages are in tablePage
	xattrs  uint32 // how many extended attributes
	atime   uint64 // see timeToDisk
	mtime   uint64
	ctime   uint64
	btime   uint64
	target  []byte // symbolic links: what they point at
}

const (
	inodeVersion = 1
	inodeFixed   = 1 + 5*4 + 4*8 + 2*4 + 4*8
)

var errShort = errors.New("value has the wrong length")
var errVersion = errors.New("value has an unknown version")

func (n *inode) marshal() []byte {
	b := make([]byte, inodeFixed, inodeFixed+len(n.target))
	b[0] = inodeVersion
	le := binary.LittleEndian
	le.PutUint32(b[1:], n.mode)
	le.PutUint32(b[5:], n.nlink)
	le.PutUint32(b[9:], n.uid)
	le.PutUint32(b[13:], n.gid)
	le.PutUint32(b[17:], n.rdev)
	le.PutUint64(b[21:], n.size)
	le.PutUint64(b[29:], n.pages)
	le.PutUint64(b[37:], n.parent)
	le.PutUint64(b[45:], n.entries)
	le.PutUint32(b[53:], n.inline)
	le.PutUint32(b[57:], n.xattrs)
	le.PutUint64(b[61:], n.atime)
	le.PutUint64(b[69:], n.mtime)
	le.PutUint64(b[77:], n.ctime)
	le.PutUint64(b[85:], n.btime)
	return append(b, n.target...)
}

func unmarshalInode(ino uint64, b []byte) (*inode, error) {
	if len(b) < inodeFixed {
		return nil, errShort
	}
	if b[0] != inodeVersion {
		return nil, errVersion
	}
	le := binary.LittleEndian
	n := &inode{
		ino: ino, mode: le.Uint32(b[1:]), nlink: le.Uint32(b[5:]), uid: le.Uint32(b[9:]), gid: le.Uint32(b[13:]), rdev: le.Uint32(b[17:]),
		size: le.Uint64(b[21:]), pages: le.Uint64(b[29:]), parent: le.Uint64(b[37:]), entries: le.Uint64(b[45:]),
		inline: le.Uint32(b[53:]), xattrs: le.Uint32(b[57:]),
		atime: le.Uint64(b[61:]), mtime: le.Uint64(b[69:]), ctime: le.Uint64(b[77:]), btime: le.Uint64(b[85:]),
	}
	if len(b) > inodeFixed {
		n.target = b[inodeFixed:]
	}
	return n, nil
}

func (n *inode) isDir() bool     { return n.mode&unix.S_IFMT == unix.S_IFDIR }
func (n *inode) isRegular() bool { return n.mode&unix.S_IFMT == unix.S_IFREG }

func (n *inode) attr() Attr {
	return Attr{
		Ino: n.ino, Mode: n.mode, Nlink: n.nlink, UID: n.uid, GID: n.gid, Rdev: n.rdev,
		Size: n.size, Blocks: n.pages * (pageSize / 512),
		Atime: timeFromDisk(n.atime), Mtime: timeFromDisk(n.mtime), Ctime: timeFromDisk(n.ctime), Btime: timeFromDisk(n.btime),
	}
}

// Times on disk are nanoseconds in the lower 30 bits and, above them, seconds
// since 1901-12-13 20:45:52 UTC: the range of ext4, to the year 2446.
const (
	nsecBits = 30
	minSec   = -1 << 31
	maxSec   = 1<<34 - 1<<31 - 1
)

func timeToDisk(t time.Time) uint64 {
	sec := min(max(t.Unix(), minSec), maxSec)
	return uint64(sec-minSec)<<nsecBits | uint64(t.Nanosecond())
}

func timeFromDisk(v uint64) time.Time {
	return time.Unix(int64(v>>nsecBits)+minSec, int64(v&(1<<nsecBits-1)))
}

// clearPriv drops set-user-ID, and set-group-ID where the group may execute or
// the caller, root excepted, has another group.
func (n *inode) clearPriv(c Caller) {
	n.mode &^= unix.S_ISUID
	if n.mode&unix.S_IXGRP != 0 || c.UID != 0 && c.GID != n.gid {
		n.mode &^= unix.S_ISGID
	}
}
