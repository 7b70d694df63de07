package fs

import (
	"encoding/binary"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// What the tests of package fs_test need from inside.

type MountEntry struct {
	Major, Minor          uint32
	Point, FSType, Source string
}

func ParseMount(line string) (MountEntry, bool) {
	m, ok := parseMount(line)
	return MountEntry{m.major, m.minor, m.point, m.fsType, m.source}, ok
}

// Errnos lists the rows of the table.
func Errnos() map[error]syscall.Errno {
	rows := make(map[error]syscall.Errno)
	for _, r := range errnos {
		rows[r.err] = r.errno
	}
	return rows
}

// Status is what a handler answers for an error, and whether it abandons.
func Status(log io.Writer, abandon bool, errs ...error) (last fuse.Status, abandoned bool) {
	l := newErrorLog(slog.New(slog.NewTextHandler(log, nil)), abandon)
	for _, err := range errs {
		last = l.status("test", 7, err)
	}
	return last, last == statusAbandon
}

// Begin and TakeInflight are what a worker notes and what its successor finds.
func (t *NodeTable) Begin(reader int, unique uint64) { t.begin(reader, unique) }
func (t *NodeTable) TakeInflight() []uint64          { return t.takeInflight() }

// Request makes a message with a body.
func Request(opcode uint32, unique, node uint64, body ...uint32) []byte {
	b := make([]byte, inHeaderSize+4*len(body))
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], opcode)
	binary.NativeEndian.PutUint64(b[8:], unique)
	binary.NativeEndian.PutUint64(b[16:], node)
	for i, v := range body {
		binary.NativeEndian.PutUint32(b[inHeaderSize+4*i:], v)
	}
	return b
}

// LetThrough reports whether a gate in a state (0 open, 1 draining, 2 closed)
// lets a request through.
func LetThrough(state int, request []byte) bool {
	g := newGate()
	g.set(gateState(state), syscall.ENOKEY)
	c, errno := g.enter(request)
	if (c == nil) != (errno == syscall.ENOKEY) {
		panic("gate: a call and an errno")
	}
	return c != nil
}

// Forgets lists the nodes and counts of a FORGET or BATCH_FORGET.
func Forgets(request []byte) (all [][2]uint64) {
	message(request).forgets(func(node, n uint64) { all = append(all, [2]uint64{node, n}) })
	return all
}

// WaitingGate is a gate whose requests wait.
type WaitingGate struct{ g *gate }

// NewWaitingGate returns one that drains, or one that holds everything.
func NewWaitingGate() *WaitingGate {
	g := newGate()
	g.letWait()
	g.set(gateDraining, syscall.ENOKEY)
	return &WaitingGate{g}
}

// Hold moves it on; Close, too.
func (w *WaitingGate) Hold()  { w.g.set(gateHolding, syscall.ENOKEY) }
func (w *WaitingGate) Close() { w.g.set(gateClosed, syscall.ENOKEY) }

// Enter says what becomes of a request: "served", "waits" or "refused".
func (w *WaitingGate) Enter(request []byte) string {
	switch c, errno := w.g.enter(request); {
	case c != nil:
		return "served"
	case errno != 0:
		return "refused"
	}
	return "waits"
}

// Counts returns how many requests wait and how many spans are to be dropped.
func (w *WaitingGate) Counts() (waiting, touched int) {
	n, _ := w.g.waits()
	return n, len(w.g.takeTouched())
}

// Release lets the requests of a node through and returns their number.
func (w *WaitingGate) Release(node uint64) int { ms, _ := w.g.release(node); return len(ms) }

// Interrupted ends the wait of a request.
func (w *WaitingGate) Interrupted(number uint64) bool { _, ok := w.g.interrupted(number); return ok }

// GiveUp returns how many waited.
func (w *WaitingGate) GiveUp() int { return len(w.g.giveUp()) }

// Exposed returns what write(2)s may have filled while these requests wait, as
// node, offset and length.
func Exposed(requests ...[]byte) (parts [][3]int64) {
	waiting := make(map[uint64]held)
	for _, r := range requests {
		waiting[message(r).number()] = holding(r)
	}
	for _, p := range exposed(waiting) {
		parts = append(parts, [3]int64{int64(p.node), p.offset, p.length})
	}
	return parts
}

// Examined is what the reading loop learns of a message.
type Examined struct{ Valid, WantsReply, MayWait, Pages, Filled bool }

// Examine asks everything of a message that does not depend on a gate.
func Examine(m []byte) (e Examined) {
	b := message(m)
	if e.Valid = b.valid(); !e.Valid {
		return e
	}
	_, e.Pages = b.pages()
	_, e.Filled = b.filled()
	e.WantsReply, e.MayWait = b.wantsReply(), b.mayWait()
	b.reserved()
	return e
}

// NewAdapter is the adapter alone, without a mount.
func NewAdapter(t testing.TB, v Volume) fuse.RawFileSystem {
	nodes, err := NewNodeTable()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nodes.Close() })
	return &adapter{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), vol: v, nodes: nodes,
		errs: newErrorLog(slog.New(slog.DiscardHandler), false), caching: func() bool { return true }, forgetAttr: func(uint64) {},
	}
}

// Pace is what the readers know of how requests come.
type Pace struct{ r readers }

// Note takes down n requests that came so long after the answer before.
func (p *Pace) Note(n int, company bool, after time.Duration) {
	for range n {
		p.r.note(company, after)
	}
}

// Alone reports whether one reader is enough.
func (p *Pace) Alone() bool { return p.r.alone() }
