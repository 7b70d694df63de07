package fs

import (
	"context"
	"errors"
	"syscall"
	"time"
)

const (
	// patience is how long Suspend waits for the requests that applications have
	// in flight before it answers them itself, an invalidation waits, unkillably,
	// for a READ to be answered; or half of the time it has, which is less.
	patience = 2 * time.Second
	// latePatience is the same once the time is over.
	latePatience = 100 * time.Millisecond
)

// Drained says what Suspend did.
type Drained struct {
	Nodes   int   // invalidated nodes
	Writes  int   // requests by which the kernel wrote dirty pages back
	Bytes   int64 // their data
	Refused int   // such requests that came after the deadline; their data is lost
	Overdue int   // requests in flight that were answered with the errno
	Held    int   // requests that wait, if Waiting
	Waiting bool  // nothing was answered with the errno: StartHolding goes on
}

// Suspend ends all access to the volume: applications get errno from now on
// (0 = ServeConfig.Errno), dirty pages are written back while ctx lasts, and
// the kernel gives up all it has cached. Afterwards nothing reads or writes the
// volume any more; the caller commits and closes it and ends the process, and
// until then every request is refused. It always completes; what was lost is
// in the result.
//
// With wait, applications' requests are not answered but left to whoever serves
// after the restore, if that can be done in the time; the result says so.
func (s *Server) Suspend(ctx context.Context, errno syscall.Errno, wait bool) (Drained, error) {
	s.suspendMu.Lock()
	defer s.suspendMu.Unlock()
	if errno == 0 {
		errno = s.cfg.Errno
	}
	var d Drained

	// 1. Applications are refused; what they have in flight is answered.
	if wait = wait && s.cfg.Resend; wait {
		s.gate.letWait()
		s.gate.set(gateDraining, errno)
	} else {
		s.gate.set(gateDraining, errno)
		d.Overdue += s.settle(false, appsPatience(ctx), errno)
	}

	// 2. The kernel writes back and lets go. This must not be stopped halfway,
	// so it has no context; when ctx ends, the gate closes before it and
	// makes it short.
	type result struct {
		nodes int
		err   error
	}
	done := make(chan result, 1)
	go func() {
		n, err := invalidateAll(context.Background(), s.fd, s.cfg.Nodes)
		if err == nil && wait && s.cfg.Mount.Writeback {
			err = s.awaitWriters(ctx)
		}
		done <- result{n, err}
	}()
	var res result
	select {
	case res = <-done:
	case <-ctx.Done():
		s.close(errno)
		s.refuseWaiting(errno)
		d.Overdue += s.settle(true, latePatience, errno)
		res = <-done
	}
	d.Nodes = res.nodes

	// 3. Nothing is let through any more.
	if wait && (res.err != nil || !s.hold(ctx, errno)) {
		s.refuseWaiting(errno)
		if _, err := invalidateAll(context.Background(), s.fd, s.cfg.Nodes); err != nil {
			res.err = errors.Join(res.err, err)
		}
	}
	s.close(errno)
	late := latePatience
	if wait {
		late = max(late, appsPatience(ctx)) // these were let through, and nobody waits for us
	}
	d.Overdue += s.settle(true, late, errno)
	d.Held, d.Waiting = s.gate.waits()
	d.Writes, d.Bytes, d.Refused = s.gate.counts()
	s.finish(nil)
	if errors.Is(res.err, errGone) {
		return d, nil
	}
	return d, res.err
}

// close lets nothing through any more.
func (s *Server) close(errno syscall.Errno) {
	s.gate.set(gateClosed, errno)
	if s.cfg.Closed != nil {
		s.cfg.Closed()
	}
}

// appsPatience is how long to wait for applications' requests, so that time is
// left for the kernel's.
func appsPatience(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return max(0, min(patience, time.Until(end)/2))
	}
	return patience
}

// settle waits for the requests in flight (the applications' ones, or all) and
// answers with errno those that take too long. It returns their number.
func (s *Server) settle(all bool, wait time.Duration, errno syscall.Errno) int {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if s.gate.wait(ctx, all) {
		return 0
	}
	late := s.gate.overdue(all)
	for _, u := range late {
		s.answer(errorReply(u, errno))
	}
	return len(late)
}
