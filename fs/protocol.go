package fs

import (
	"bytes"
	"encoding/binary"
	"syscall"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Opcodes of the FUSE protocol that the reading loop treats by itself.
const (
	opLookup      = 1
	opForget      = 2
	opSetattr     = 4
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opFlush       = 25
	opInit        = 26
	opReleasedir  = 29
	opFsyncdir    = 30
	opInterrupt   = 36
	opDestroy     = 38
	opNotifyReply = 41
	opBatchForget = 42
	opSyncfs      = 50
)

// Codes of the notifications we write.
const (
	notifyInvalInode = 2
	notifyResend     = 7 // kernel 6.9
)

// uniqueResend is set by the kernel in the unique of a request that it sends
// again. The reply must carry it; as a request number it does not count.
const uniqueResend = 1 << 63

const (
	inHeaderSize  = 40
	outHeaderSize = 16

	// maxData is the largest payload of a READ or WRITE: 256 pages.
	maxData = 1 << 20
	// bufferSize holds the largest request or reply: the payload and less
	// than a page of headers.
	bufferSize = maxData + 4096
)

// message is one request as read from the device. Its accessors expect what
// valid has checked.
type message []byte

// valid reports whether the message has a whole header and the length that the
// header states.
func (m message) valid() bool {
	return len(m) >= inHeaderSize && int(binary.NativeEndian.Uint32(m)) == len(m)
}

func (m message) opcode() uint32 { return binary.NativeEndian.Uint32(m[4:]) }

// unique is the request's number as received, the resend bit included.
func (m message) unique() uint64 { return binary.NativeEndian.Uint64(m[8:]) }

// number is the request's number without the resend bit.
func (m message) number() uint64 { return m.unique() &^ uniqueResend }

func (m message) node() uint64 { return binary.NativeEndian.Uint64(m[16:]) }

// u32 reads a field of the body, 0 if the message is too short for it.
func (m message) u32(off int) uint32 {
	if len(m) < inHeaderSize+off+4 {
		return 0
	}
	return binary.NativeEndian.Uint32(m[inHeaderSize+off:])
}

func (m message) u64(off int) uint64 {
	if len(m) < inHeaderSize+off+8 {
		return 0
	}
	return binary.NativeEndian.Uint64(m[inHeaderSize+off:])
}

// reservedName is a name in the root directory that go-fuse keeps for itself: it
// answers requests that carry it before the volume sees them.
var reservedName = []byte(".go-fuse-epoll-hack\x00")

// reserved reports whether a request is about that name.
func (m message) reserved() bool {
	return m.node() == meta.RootIno && bytes.Contains(m[inHeaderSize:], reservedName)
}

// writeFlags returns the write_flags of a WRITE.
func (m message) writeFlags() uint32 { return m.u32(20) }

// span is a part of a node's data; length 0 = to the end.
type span struct {
	node           uint64
	offset, length int64
}

// pages returns which pages of the kernel's cache a request fills, or keeps
// locked until it is answered; ok is false if none.
func (m message) pages() (p span, ok bool) {
	switch m.opcode() {
	case opRead, opWrite:
		const openFlags = 32 // of the body
		if m.u32(openFlags)&unix.O_DIRECT != 0 {
			return span{}, false
		}
		return span{m.node(), int64(m.u64(8)), int64(m.u32(16))}, true
	case opSetattr:
		// While a file is truncated, nothing of it is written back.
		return span{node: m.node()}, m.u32(0)&fuse.FATTR_SIZE != 0
	}
	return span{}, false
}

// filled returns the whole pages that a WRITE has put into the kernel's cache
// before it was sent: unlike those of a READ they can be read meanwhile.
func (m message) filled() (p span, ok bool) {
	if m.opcode() != opWrite {
		return span{}, false
	}
	if p, ok = m.pages(); !ok {
		return span{}, false
	}
	end := (p.offset + p.length) &^ (blockSize - 1)
	p.offset = (p.offset + blockSize - 1) &^ (blockSize - 1)
	p.length = end - p.offset
	return p, p.length > 0
}

// mayWait reports whether a request may be left unanswered until access is
// restored.
func (m message) mayWait() bool {
	switch m.opcode() {
	case opFlush, opRelease, opReleasedir, opDestroy, opSyncfs, opStatfs:
		// These come from a process that ends, or that is about the whole host;
		// it could not be interrupted, or would not know why it waits.
		return false
	case opWrite:
		if m.writeFlags()&fuse.WRITE_CACHE != 0 {
			return false // nor could the kernel's own writers
		}
	case opSetattr:
		const kept = fuse.FATTR_MTIME | fuse.FATTR_CTIME // as the kernel writes them back
		if m.u32(0)&^(fuse.FATTR_FH|fuse.FATTR_LOCKOWNER) == kept {
			return false
		}
	}
	return m.wantsReply()
}

// wantsReply reports whether the kernel waits for an answer.
func (m message) wantsReply() bool {
	switch m.opcode() {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		return false
	}
	return true
}

// forgetting reports whether the kernel lets go of nodes, which has no answer.
func (m message) forgetting() bool {
	return m.opcode() == opForget || m.opcode() == opBatchForget
}

// forgets calls fn for each node of a FORGET or BATCH_FORGET.
func (m message) forgets(fn func(node, n uint64)) {
	switch m.opcode() {
	case opForget:
		fn(m.node(), m.u64(0))
	case opBatchForget:
		for i := range int(m.u32(0)) {
			off := 8 + 16*i
			if len(m) < inHeaderSize+off+16 {
				return
			}
			fn(m.u64(off), m.u64(off+8))
		}
	}
}

// errorReply is the answer "failed with errno" (0 = done, nothing to tell).
func errorReply(unique uint64, errno syscall.Errno) []byte {
	b := make([]byte, outHeaderSize)
	putOutHeader(b, outHeaderSize, -int32(errno), unique)
	return b
}

func putOutHeader(b []byte, length int, status int32, unique uint64) {
	binary.NativeEndian.PutUint32(b, uint32(length))
	binary.NativeEndian.PutUint32(b[4:], uint32(status))
	binary.NativeEndian.PutUint64(b[8:], unique)
}
