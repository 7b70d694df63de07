package fs

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// gateState says which requests a server lets through to the volume.
type gateState int

const (
	// gateOpen lets every request through.
	gateOpen gateState = iota
	// gateDraining refuses applications, but lets through what the kernel
	// sends to get rid of dirty pages.
	gateDraining
	// gateClosed refuses everything; the volume may be closed.
	gateClosed
	// gateHolding comes between these two while requests wait: it also makes
	// those wait that fill or lock pages, which were served until now.
	gateHolding
)

// call is one request on its way through the volume.
type call struct {
	unique uint64 // as received
	drain  bool   // writes back dirty pages
	// answered is set by whoever answers: the handler, or Suspend when the
	// handler takes too long.
	answered atomic.Bool
}

// gate decides what happens to a request and knows the ones in flight.
type gate struct {
	// state is a copy of mu.state for readers that need no decision.
	state atomic.Int32

	mu struct {
		sync.Mutex
		state gateState
		errno syscall.Errno // for refused requests
		calls map[uint64]*call
		// apps counts the calls that are not drains.
		apps int
		// idle, if set, is closed when no call (wantAll) or no
		// application's call is left.
		idle    chan struct{}
		wantAll bool

		// waiting has the requests that are left to whoever serves after the
		// restore; nil = none may wait.
		waiting map[uint64]message
		touched []span // what was served meanwhile although it fills pages

		writes  int   // dirty pages' WRITEs let through while draining
		bytes   int64 // and their data
		refused int   // dirty pages' WRITEs refused
	}
}

func newGate() *gate {
	g := &gate{}
	g.mu.calls = make(map[uint64]*call)
	return g
}

func (g *gate) open() bool { return gateState(g.state.Load()) == gateOpen }

// drains reports whether a request only serves to write dirty pages back or to
// let go of something: what a draining gate lets through.
func drains(m message) bool {
	switch m.opcode() {
	case opWrite:
		return m.writeFlags()&fuse.WRITE_CACHE != 0
	case opFsync, opFsyncdir, opFlush, opRelease, opReleasedir, opSyncfs:
		return true
	case opSetattr:
		// The times that the kernel kept for a file with cached writes.
		const times = fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_CTIME | fuse.FATTR_FH | fuse.FATTR_LOCKOWNER
		return m.u32(0)&^times == 0
	}
	return false
}

// enter asks for a request to be let through. It returns the call, to be ended
// by leave, or the errno to refuse with. Both are zero for a request that waits,
// and for one that is in flight already: the kernel sent again what had been
// handed over.
func (g *gate) enter(m message) (*call, syscall.Errno) {
	drain := drains(m)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.calls[m.number()] != nil {
		return nil, 0
	}
	p, pages := m.pages()
	serve := g.mu.state == gateOpen || g.mu.state != gateClosed && drain
	if g.mu.waiting != nil && !serve && m.mayWait() {
		if g.mu.state != gateDraining || !pages {
			g.mu.waiting[m.number()] = append(message(nil), m...)
			return nil, 0
		}
		serve = true
		g.mu.touched = append(g.mu.touched, p)
	}
	if !serve {
		if m.opcode() == opWrite && drain {
			g.mu.refused++
		}
		return nil, g.mu.errno
	}
	if g.mu.state != gateOpen && drain && m.opcode() == opWrite {
		g.mu.writes++
		g.mu.bytes += int64(m.u32(16))
	}
	return g.callLocked(m, drain), 0
}

func (g *gate) callLocked(m message, drain bool) *call {
	c := &call{unique: m.unique(), drain: drain}
	g.mu.calls[m.number()] = c
	if !drain {
		g.mu.apps++
	}
	return c
}

// leave ends a call.
func (g *gate) leave(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.calls[c.unique&^uniqueResend] == c {
		g.dropLocked(c)
		g.wakeLocked()
	}
}

func (g *gate) dropLocked(c *call) {
	delete(g.mu.calls, c.unique&^uniqueResend)
	if !c.drain {
		g.mu.apps--
	}
}

func (g *gate) wakeLocked() {
	left := g.mu.apps
	if g.mu.wantAll {
		left = len(g.mu.calls)
	}
	if g.mu.idle != nil && left == 0 {
		close(g.mu.idle)
		g.mu.idle = nil
	}
}

// set moves the gate; errno is for the requests it refuses.
func (g *gate) set(s gateState, errno syscall.Errno) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.state, g.mu.errno = s, errno
	g.state.Store(int32(s))
}

// wait waits until no application's call is in flight, or with all no call at
// all, and reports whether that was reached before ctx ended. One waiter at a
// time.
func (g *gate) wait(ctx context.Context, all bool) bool {
	idle := make(chan struct{})
	g.mu.Lock()
	g.mu.idle, g.mu.wantAll = idle, all
	g.wakeLocked()
	g.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		g.mu.idle = nil
		return false
	}
}

// overdue takes the right to answer from the handlers of the calls in flight
// (the applications' ones, or all) and returns their uniques. Nobody waits for
// these calls any more.
func (g *gate) overdue(all bool) []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	var us []uint64
	for _, c := range g.mu.calls {
		if (all || !c.drain) && c.answered.CompareAndSwap(false, true) {
			us = append(us, c.unique)
			g.dropLocked(c)
		}
	}
	return us
}

// counts returns what drained so far.
func (g *gate) counts() (writes int, bytes int64, refused int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.writes, g.mu.bytes, g.mu.refused
}
