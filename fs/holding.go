package fs

import (
	"context"
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A suspension during which requests wait instead of failing: the kernel repeats
// them to whoever serves next. Most can simply be left unanswered. Those that
// fill or lock pages of the kernel's cache cannot, because an invalidation waits
// for them; so they are served until everything has been invalidated once, and
// after that only what they have filled is invalidated again, until nothing is
// filled any more.

const (
	// holdRounds bounds how often what was filled meanwhile is invalidated again.
	holdRounds = 500
	// blockedAfter is after how long an invalidation is taken to wait for a
	// request that waits.
	blockedAfter = 3 * time.Millisecond
	// writersPause is longer than the kernel makes a write(2) pause that makes too
	// many pages dirty (200 ms).
	writersPause = 250 * time.Millisecond
	// writersLook is the time between two looks at what writers have done.
	writersLook = 10 * time.Millisecond
)

// letWait lets requests wait from now on that are not let through.
func (g *gate) letWait() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.waiting = make(map[uint64]message)
}

// interrupted ends the wait of a request and returns its unique.
func (g *gate) interrupted(number uint64) (unique uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.mu.waiting[number]
	if !ok {
		return 0, false
	}
	delete(g.mu.waiting, number)
	return m.unique(), true
}

// takeTouched returns the pages that were filled since it was called last.
func (g *gate) takeTouched() []span {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.mu.touched
	g.mu.touched = nil
	return t
}

// release lets the waiting requests through that may lock pages of a node.
func (g *gate) release(node uint64) (ms []message, cs []*call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for number, m := range g.mu.waiting {
		if p, ok := m.pages(); ok && p.node == node {
			delete(g.mu.waiting, number)
			g.mu.touched = append(g.mu.touched, p)
			ms, cs = append(ms, m), append(cs, g.callLocked(m, false))
		}
	}
	return ms, cs
}

// giveUp lets nothing wait any more and returns what did.
func (g *gate) giveUp() (us []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.mu.waiting {
		us = append(us, m.unique())
	}
	g.mu.waiting = nil
	return us
}

// waits reports whether requests wait, and how many.
func (g *gate) waits() (n int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.mu.waiting), g.mu.waiting != nil
}

// hold goes on after the first invalidation of everything. It reports whether
// nothing is left in the kernel's cache although requests wait.
func (s *Server) hold(ctx context.Context, errno syscall.Errno) bool {
	s.gate.set(gateHolding, errno)
	for range holdRounds {
		touched := s.gate.takeTouched()
		if len(touched) == 0 {
			return true
		}
		swept := make(map[span]bool)
		for _, p := range touched {
			if !swept[p] && !s.drop(ctx, p) {
				return false
			}
			swept[p] = true
		}
	}
	return false
}

// awaitWriters goes on emptying the kernel's caches until no write(2) is left that
// began before requests waited: with writeback it asks nobody while it copies, and
// makes pages dirty that were written back already. The next one asks for the
// file's size first, and waits. A program that writes to a mapping is not quiet
// before reads wait, too, so this has an end; what a write(2) makes dirty after it
// is refused, and its fsync says so.
func (s *Server) awaitWriters(ctx context.Context) error {
	quietSince, end := time.Now(), time.Now().Add(appsPatience(ctx))
	for time.Now().Before(end) && time.Since(quietSince) < writersPause {
		before, _, _ := s.gate.counts()
		if _, err := invalidateAll(context.Background(), s.fd, s.cfg.Nodes); err != nil {
			return err
		}
		if after, _, _ := s.gate.counts(); after != before {
			quietSince = time.Now()
		} else {
			time.Sleep(writersLook)
		}
	}
	return nil
}

// drop takes pages from the kernel, and serves what keeps them locked.
func (s *Server) drop(ctx context.Context, p span) bool {
	done := make(chan error, 1)
	go func() { done <- invalidateSpan(s.fd, p) }()
	blocked := time.NewTicker(blockedAfter)
	defer blocked.Stop()
	for {
		select {
		case err := <-done:
			return err == nil || errors.Is(err, unix.ENOENT)
		case <-blocked.C:
			ms, cs := s.gate.release(p.node)
			for i, m := range ms {
				go s.do(&reader{out: make([]byte, bufferSize)}, m, cs[i])
			}
		case <-ctx.Done():
			return false
		}
	}
}

// refuseWaiting answers everything that waits.
func (s *Server) refuseWaiting(errno syscall.Errno) {
	for _, u := range s.gate.giveUp() {
		s.answer(errorReply(u, errno))
	}
}
