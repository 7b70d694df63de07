package fs

import (
	"time"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// blockSize is the unit of statfs, in bytes, and that of the kernel's pages.
	blockSize = 4096

	// ioSize is the st_blksize of every file, in bytes: what a program that buffers had best read and write at a
	// time, as each write is a message. C's stdio takes 8 KiB of it, Python all.
	ioSize = 64 << 10
)

// GetAttr returns the attributes of a node.
func (a *adapter) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	at, err := a.vol.GetAttr(in.NodeId)
	if err != nil {
		return a.errs.status("getattr", in.NodeId, err)
	}
	out.SetTimeout(a.timeout())
	fillAttr(at, &out.Attr)
	return fuse.OK
}

// SetAttr changes attributes: chmod, chown, truncate, utimensat, and the times
// that the kernel kept while it cached writes.
func (a *adapter) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c := a.caller(&in.InHeader)
	// Set by the kernel for truncations by the unprivileged and for every
	// change of owner of a non-directory.
	c.KillPriv = in.Valid&fuse.FATTR_KILL_SUIDGID != 0
	at, err := a.vol.SetAttr(c, in.NodeId, setAttr(in))
	if err != nil {
		return a.errs.status("setattr", in.NodeId, err)
	}
	out.SetTimeout(a.timeout())
	fillAttr(at, &out.Attr)
	return fuse.OK
}

func setAttr(in *fuse.SetAttrIn) meta.SetAttr {
	var s meta.SetAttr
	if mode, ok := in.GetMode(); ok {
		s.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		s.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		s.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		s.Size = &size
	}
	if t, ok := in.GetATime(); ok {
		s.Atime = &t
	}
	if t, ok := in.GetMTime(); ok {
		s.Mtime = &t
	}
	if t, ok := in.GetCTime(); ok {
		s.Ctime = &t
	}
	return s
}

// Statx is asked when a program wants the time of creation.
func (a *adapter) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	at, err := a.vol.GetAttr(in.NodeId)
	if err != nil {
		return a.errs.status("statx", in.NodeId, err)
	}
	out.SetTimeout(a.timeout())
	out.Statx = fuse.Statx{
		Mask:      unix.STATX_BASIC_STATS | unix.STATX_BTIME,
		Blksize:   ioSize,
		Nlink:     at.Nlink,
		Uid:       at.UID,
		Gid:       at.GID,
		Mode:      uint16(at.Mode),
		Ino:       at.Ino,
		Size:      at.Size,
		Blocks:    at.Blocks,
		Atime:     sxTime(at.Atime),
		Btime:     sxTime(at.Btime),
		Ctime:     sxTime(at.Ctime),
		Mtime:     sxTime(at.Mtime),
		RdevMajor: unix.Major(uint64(at.Rdev)),
		RdevMinor: unix.Minor(uint64(at.Rdev)),
	}
	return fuse.OK
}

func sxTime(t time.Time) fuse.SxTime {
	return fuse.SxTime{Sec: uint64(t.Unix()), Nsec: uint32(t.Nanosecond())}
}

// freeFiles is the number of inodes statfs shows as free: there is no limit.
const freeFiles = 1 << 32

// StatFs shows the quota as the size of the file system, or, without one, what
// is used and what the host can still take.
func (a *adapter) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	u, err := a.vol.Statfs()
	if err != nil {
		return a.errs.status("statfs", in.NodeId, err)
	}
	total := u.UsedBytes + u.FreeBytes
	if u.QuotaBytes != 0 {
		total = u.QuotaBytes
	}
	*out = fuse.StatfsOut{
		Blocks:  total / blockSize,
		Bfree:   u.FreeBytes / blockSize,
		Bavail:  u.FreeBytes / blockSize,
		Files:   u.Files + freeFiles,
		Ffree:   freeFiles,
		Bsize:   blockSize,
		Frsize:  blockSize,
		NameLen: meta.MaxName,
	}
	return fuse.OK
}
