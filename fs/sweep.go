package fs

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"cmkfs/meta"

	"golang.org/x/sys/unix"
)

const (
	// sweepers are the threads of a sweep. One that waits for dirty pages to be
	// written back keeps the others from nothing.
	sweepers = 4
	// sweepBatch is how many nodes a sweeper takes at a time.
	sweepBatch = 512
	// sweepNice is their priority, as far as they may have it: while they work,
	// what is cached can still be read, so nothing on the host is more urgent.
	sweepNice = -19
)

// invalidateAll makes the kernel give up what it caches of every node in the
// table: dirty pages are written back first, mappings lose their pages,
// attributes are asked for again. It returns the number of nodes the kernel
// knew.
//
// Entries need nothing: every step of a path walk asks for the attributes of
// the directory first. To expire them (FUSE_NOTIFY_INC_EPOCH) would even harm,
// since the kernel detaches whatever is mounted below an expired entry.
func invalidateAll(ctx context.Context, fd int, nodes *NodeTable) (int, error) {
	s := &sweep{fd: fd, batches: make(chan []uint64, sweepers)}
	// Without the root's attributes nobody walks a path any more.
	if err := s.invalidate(meta.RootIno); err != nil {
		return int(s.known.Load()), err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	for range sweepers {
		wait.Go(func() {
			if err := s.run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	err := s.feed(ctx, nodes)
	close(s.batches)
	wait.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause // of whoever was first
	}
	return int(s.known.Load()), err
}

// sweep is one invalidation of everything.
type sweep struct {
	fd      int
	batches chan []uint64
	known   atomic.Int64
}

// feed hands out the nodes.
func (s *sweep) feed(ctx context.Context, nodes *NodeTable) error {
	var batch []uint64
	flush := func() error {
		select {
		case s.batches <- batch:
			batch = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := nodes.Walk(func(ino uint64) error {
		if ino == meta.RootIno {
			return nil
		}
		if batch = append(batch, ino); len(batch) < sweepBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// run is a sweeper. Its thread, with its priority, ends with it.
func (s *sweep) run(ctx context.Context) error {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, sweepNice) // of this thread
	for batch := range s.batches {
		for _, ino := range batch {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := s.invalidate(ino); err != nil {
				return err
			}
		}
	}
	return nil
}

// invalidate invalidates one node.
func (s *sweep) invalidate(ino uint64) error {
	err := invalidateSpan(s.fd, span{node: ino})
	switch {
	case err == nil:
		s.known.Add(1)
	case errors.Is(err, unix.ENOENT): // counted, but the kernel has let go of it
	case errors.Is(err, errGone):
		return err
	default:
		return fmt.Errorf("invalidate node %d: %w", ino, err)
	}
	return nil
}
