package worker

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/fs"
	"cmkfs/meta"
	"cmkfs/store"
)

const (
	// orphanDrain is how long dirty pages are written back by a worker whose
	// supervisor is gone or whose lease has run out: the supervisor's default.
	orphanDrain = 2 * time.Second
	// unmountDrain is the same for a mount that is gone from our name space and
	// lives on in another one. No access was taken away, so there is time.
	unmountDrain = 10 * time.Second
	// leaseLook is the longest time between two looks at the lease's clock: Go
	// timers stand still while the machine sleeps, CLOCK_BOOTTIME does not.
	leaseLook = time.Second
	// unmountWait is how long after an unmount the kernel may take to end the
	// connection. It does not end if the mount lives on in another mount
	// namespace.
	unmountWait = 2 * time.Second
)

// serving is a worker with an open volume.
type serving struct {
	*process
	dir      store.Store
	volume   *meta.Volume
	server   *fs.Server
	nodes    atomic.Pointer[fs.NodeTable] // set when requests are served; read by the volume's checkpoints
	errno    syscall.Errno                // for requests refused after this worker stopped by itself
	deadline int64                        // of the lease, CLOCK_BOOTTIME nanoseconds
	served   chan error                   // the end of the reading loops; nil = the mount is gone
	forward  []byte                       // the parts so far of a forwarded request
	id       [16]byte                     // of the volume
	told     meta.Position                // what the supervisor knows of the volume
}

// serve opens the volume and answers the mount's requests until the volume is
// suspended or unmounted.
func (w *process) serve(dir store.Store, start *Start) int {
	ctx := context.Background()
	cfg, err := w.unlock(dir)
	if err != nil {
		return w.fail(classOf(err), err)
	}
	s := &serving{process: w, dir: dir, deadline: start.Lease.Deadline, served: make(chan error, 1)}
	s.id = cfg.VolumeID
	cfg.Newest = start.Newest.known(cfg.VolumeID)
	cfg.InFlight = func() []uint64 {
		if nodes := s.nodes.Load(); nodes != nil {
			return nodes.Unanswered()
		}
		return nil // not known before the mount is taken over
	}
	cfg.Answered = start.Answered
	cfg.Reached = func(operation uint64) {
		if nodes := s.nodes.Load(); nodes != nil {
			nodes.SetAnswered(operation)
		}
	}
	if s.volume, err = meta.Open(ctx, cfg); err != nil {
		return w.fail(classOf(err), err)
	}
	if err := w.conn.Send(Reply{Ready: &Ready{PID: os.Getpid()}}); err != nil {
		return ExitOrphan // nothing was served yet
	}
	return s.loop(ctx)
}

// takeOver starts answering the requests of a mount.
func (s *serving) takeOver(m Serve, files []*os.File) error {
	if s.server != nil || len(files) != 2 {
		return errors.New("serve: already serving, or not two descriptors")
	}
	nodes, err := fs.OpenNodeTable(files[1])
	if err != nil {
		return err
	}
	s.nodes.Store(nodes)
	nodes.SetAnswered(s.volume.Reached()) // what programs see from now on
	s.errno = syscall.Errno(m.Errno)
	s.server, err = fs.NewServer(fs.ServeConfig{
		Volume:  s.volume,
		File:    files[0],
		Init:    m.Init,
		Nodes:   nodes,
		Mount:   m.Mount,
		Session: m.Session,
		Resend:  m.Resend,
		Errno:   s.errno,
		Log:     s.log,
		Closed: func() {
			_ = s.conn.Send(Reply{Closed: &Closed{}}) // without a supervisor nobody hears it
		},
	})
	if err != nil {
		return err
	}
	go func() { s.served <- s.server.Serve() }()
	return nil
}

// loop is the life of a serving worker. It owns all fields of s.
func (s *serving) loop(ctx context.Context) int {
	lease := time.NewTimer(0)
	defer lease.Stop()
	position := time.NewTicker(positionEvery)
	defer position.Stop()
	s.tellPosition()
	for {
		select {
		case r, ok := <-s.requests:
			if !ok {
				s.log.Warn("the supervisor is gone; suspending")
				return s.stopAlone(ctx)
			}
			if code, end := s.handle(ctx, r); end {
				return code
			}
		case <-lease.C:
			left := Until(s.deadline)
			if left <= 0 {
				s.log.Warn("the lease has run out; suspending")
				return s.stopAlone(ctx)
			}
			lease.Reset(min(left, leaseLook))
		case <-position.C:
			s.tellPosition()
		case err := <-s.served:
			if err != nil {
				s.log.Error("serving ended", "err", err)
				return ExitStopped
			}
			return s.closeVolume(ctx)
		case <-s.volume.Failed():
			// Answering goes wrong from here on; the requests in flight wait
			// for the next worker, which recovers from the journal.
			s.log.Error("the volume stopped after an I/O error")
			return ExitStopped
		}
	}
}

// handle carries out one message; end says that the worker is done.
func (s *serving) handle(ctx context.Context, r message) (code int, end bool) {
	switch {
	case r.Serve != nil:
		if err := s.takeOver(*r.Serve, r.files); err != nil {
			return s.fail(ClassOther, err), true
		}
	case r.Lease != nil:
		s.deadline = r.Lease.Deadline
	case r.Remount != nil:
		if s.server != nil {
			s.server.Remounted(r.Remount.Mount)
		}
	case r.Forward != nil:
		s.forward = append(s.forward, r.Forward.Part...)
		if r.Forward.Last && s.server != nil {
			request := s.forward
			s.forward = nil
			go s.server.Handle(request) // may wait for a lock; the loop must not
		}
	case r.Stats != nil:
		go s.sendStats() // may wait for a lock; the loop must not
	case r.Key != nil:
		go s.sendKey(*r.Key) // waits for the disk; the loop must not
	case r.Ping != nil:
		if s.conn.Send(Reply{Pong: &Pong{}}) != nil {
			s.log.Warn("the supervisor does not listen")
		}
	case r.Suspend != nil:
		ctx, cancel := context.WithTimeout(ctx, Until(r.Suspend.Deadline))
		defer cancel()
		done, ok := s.suspend(ctx, syscall.Errno(r.Suspend.Errno), r.Suspend.Wait)
		if !ok {
			return ExitStopped, true
		}
		if s.conn.Send(Reply{Suspended: &done}) != nil {
			return ExitOrphan, true
		}
		return ExitOK, true
	case r.Unmount != nil:
		return s.unmounted(ctx), true
	}
	return 0, false
}

// suspend refuses new requests, saves what the kernel still holds back, takes
// everything readable out of the kernel's caches and makes it all durable.
func (s *serving) suspend(ctx context.Context, errno syscall.Errno, wait bool) (Suspended, bool) {
	var counts Suspended
	if s.server != nil {
		var err error
		if counts.Drained, err = s.server.Suspend(ctx, errno, wait); err != nil {
			// Some cached page may be left; the supervisor sweeps once more.
			s.log.Warn("suspending was not complete", "err", err)
		}
	}
	ok := true
	if err := s.volume.SaveAccessTimes(); err != nil {
		s.log.Error("suspending: cannot save access times", "err", err)
	}
	if err := s.volume.Sync(context.WithoutCancel(ctx)); err != nil {
		s.log.Error("suspending: cannot make the volume durable", "err", err)
		ok = false
	}
	s.tellPosition()
	return counts, ok
}

// stopAlone suspends without being told to. With the exit of this process the
// mount is either answered by the supervisor or, without one, disconnected.
func (s *serving) stopAlone(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, orphanDrain)
	defer cancel()
	s.suspend(ctx, s.errno, false)
	return ExitOrphan
}

// unmounted ends the worker of a mount that is gone. The kernel usually ends
// the connection, and with it Serve, at once.
func (s *serving) unmounted(ctx context.Context) int {
	select {
	case err := <-s.served:
		if err != nil {
			s.log.Warn("serving ended", "err", err)
		}
	case <-time.After(unmountWait):
		drain, cancel := context.WithTimeout(ctx, unmountDrain)
		defer cancel()
		if _, ok := s.suspend(drain, unix.ENOTCONN, false); !ok {
			return ExitStopped
		}
	}
	return s.closeVolume(ctx)
}

// closeVolume checkpoints: the next mount has nothing to recover.
func (s *serving) closeVolume(ctx context.Context) int {
	err := s.volume.Close(ctx)
	if err == nil {
		s.tellPosition()
	}
	if err != nil {
		s.log.Error("closing the volume", "err", err)
		if errors.Is(err, meta.ErrFailed) {
			return ExitStopped
		}
		return s.fail(classOf(err), err)
	}
	return ExitOK
}

func (s *serving) sendStats() {
	usage, err := s.volume.Statfs()
	if err != nil {
		s.log.Warn("statfs", "err", err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	// A supervisor that is gone is noticed by the loop.
	_ = s.conn.Send(Reply{Stats: &Stats{
		QuotaBytes: usage.QuotaBytes, UsedBytes: usage.UsedBytes, FreeBytes: usage.FreeBytes,
		Files: usage.Files, HeapBytes: m.HeapInuse, Goroutines: runtime.NumGoroutine(),
	}})
}
