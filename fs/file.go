package fs

import (
	"context"
	"math"
	"syscall"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open answers ENOSYS, and so do OpenDir and Create, which are inherited: opens
// are stateless, so the kernel need not ask again. It then sends no RELEASE
// either, and keeps what it has cached of the file.
func (a *adapter) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// Flush is sent for every close of a descriptor until it is answered ENOSYS:
// what the kernel has cached it writes back by itself before, and reports.
func (a *adapter) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status {
	return fuse.ENOSYS
}

// Release is only met for files that were opened before the kernel learnt that
// opens need no message. There is no state to let go of.
func (a *adapter) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// ReleaseDir is Release for directories.
func (a *adapter) ReleaseDir(*fuse.ReleaseIn) {}

// read answers a READ, in out. Decoding it here instead of by go-fuse saves a
// microsecond of each, and the garbage that a request there is. The kernel forgets
// the access time it had when it gets the answer.
func (a *adapter) read(m message, out []byte) []byte {
	const offset, size, openFlags = 8, 16, 32 // of the body
	off := m.u64(offset)
	switch {
	case off > math.MaxInt64-maxData:
		return errorReply(m.unique(), unix.EFBIG)
	case m.u32(size) > maxData: // more than the kernel was told to ask for
		return errorReply(m.unique(), unix.EIO)
	}
	read := a.vol.Read
	if m.u32(openFlags)&unix.O_NOATIME != 0 {
		read = a.vol.Peek
	}
	n, err := read(m.node(), out[outHeaderSize:][:m.u32(size)], int64(off))
	if err != nil {
		return errorReply(m.unique(), syscall.Errno(a.errs.status("read", m.node(), err)))
	}
	putOutHeader(out, outHeaderSize+n, 0, m.unique())
	return out[:outHeaderSize+n]
}

// Writev is not offered: requests come in one piece.
func (a *adapter) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// Write writes data that is part of the request.
func (a *adapter) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if int(in.Size) != len(data) {
		return 0, fuse.EINVAL
	}
	if in.Offset > math.MaxInt64-maxData {
		return 0, fuse.Status(unix.EFBIG)
	}
	c := a.caller(&in.InHeader)
	c.KillPriv = in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0
	kills := c.KillPriv && a.hasPriv(in.NodeId)
	n, err := a.vol.Write(c, in.NodeId, data, int64(in.Offset))
	if err != nil {
		return 0, a.errs.status("write", in.NodeId, err)
	}
	if kills { // after O_DIRECT the kernel trusts the mode it had
		a.privKilled(c, in.NodeId)
	}
	return uint32(n), fuse.OK
}

// hasPriv reports whether a file is set-user-ID or set-group-ID.
func (a *adapter) hasPriv(ino uint64) bool {
	at, err := a.vol.GetAttr(ino)
	return err == nil && at.Mode&(unix.S_ISUID|unix.S_ISGID) != 0
}

// Fsync makes everything answered so far durable: the volume's journal is one
// sequence, so there is no less to sync than all of it.
func (a *adapter) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	// The wait cannot be given up: FUSE cancels on any signal.
	return a.errs.status("fsync", in.NodeId, a.vol.SyncFile(context.Background(), in.NodeId))
}

// FsyncDir is Fsync for directories.
func (a *adapter) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return a.errs.status("fsyncdir", in.NodeId, a.vol.Sync(context.Background()))
}

// Fallocate reserves, punches or zeroes a range.
func (a *adapter) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return fuse.Status(unix.EFBIG)
	}
	c := a.caller(&in.InHeader)
	c.KillPriv = in.Uid != 0
	if err := a.vol.Fallocate(c, in.NodeId, in.Mode, int64(in.Offset), int64(in.Length)); err != nil {
		return a.errs.status("fallocate", in.NodeId, err)
	}
	a.privKilled(c, in.NodeId)
	return fuse.OK
}

// privKilled has the kernel forget the mode of a file of which an unprivileged
// caller has changed data in a way after which it trusts the mode it had.
func (a *adapter) privKilled(c meta.Caller, ino uint64) {
	if c.KillPriv {
		a.forgetAttr(ino)
	}
}

// Lseek finds data and holes; the other directions are the kernel's own.
func (a *adapter) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	off, err := a.vol.Seek(in.NodeId, int64(in.Offset), int(in.Whence))
	if err != nil {
		return a.errs.status("lseek", in.NodeId, err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

// CopyFileRange shares the blocks of a range with another file.
func (a *adapter) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if in.Flags != 0 {
		return 0, fuse.EINVAL
	}
	// The reply has 32 bits for the length; the kernel asks again for the rest.
	length := min(in.Len, math.MaxUint32&^(blockSize-1))
	c := a.caller(&in.InHeader)
	c.KillPriv = in.Uid != 0
	n, err := a.vol.CopyRange(c, in.NodeId, int64(in.OffIn), in.NodeIdOut, int64(in.OffOut), int64(length))
	if err != nil {
		return 0, a.errs.status("copy_file_range", in.NodeId, err)
	}
	a.privKilled(c, in.NodeIdOut)
	return uint32(n), fuse.OK
}

// Ioctl knows none: ioctls that reach through to the store would let a user of
// the mount shut it down.
func (a *adapter) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
