package fs

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	defaultReaders = 32
	maxReaders     = inflightSlots / 2
	// idleReaders wait for requests; more of them only make the kernel wake
	// a cold thread.
	idleReaders = 2
)

// A program that does one thing after the other keeps one reader busy, and what it
// mostly waits for is that threads are woken: the reader when the request comes,
// the program when it is answered. On a virtual machine each takes longer than
// most requests. So when requests come one at a time and soon after each answer,
// the reader is alone, and looks for the next one for a while before it lets its
// thread sleep.
const (
	// soon is how long after an answer the next request counts as coming at once,
	// and how long a lone reader looks for it.
	soon = 100 * time.Microsecond
	// A reader is alone from loneFrom requests on that came at once; each that
	// came later takes back late of them, up to loneMost.
	loneFrom, loneMost, late = 16, 32, 8
	// afterCompany is how many requests it takes to be alone again after two were
	// there at a time.
	afterCompany = 64
	// crowded is how long looking for a request may stand still to let another
	// thread have the processor: more, and there may be more threads than processors,
	// or the host of a virtual machine had other things to do. Then nobody looks for
	// requests for crowdedRest, and twice as long, up to crowdedMost, each time that
	// it happens within crowdedLooks: less often it costs less than looking saves.
	crowded      = 500 * time.Microsecond
	crowdedRest  = 5 * time.Millisecond
	crowdedMost  = 10 * time.Second
	crowdedLooks = 1000
	// kept is how long a lone reader may be busy before another one is started, up to
	// twice that: so long may another program wait, once, for the first one's fsync.
	kept = time.Millisecond
)

// reader is the memory of one goroutine that reads and handles requests.
type reader struct {
	in, out []byte
	more    chan struct{} // there is more to do; holds one
}

// readers are the goroutines that read and handle requests. Server.mu guards it.
type readers struct {
	all      int           // reading or handling
	idle     int           // of them, waiting in read
	spare    []*reader     // waiting until there is more to do
	single   bool          // there is one processor: who looks for a request is in its way
	received uint64        // requests read
	answered time.Time     // when the last reader was done
	score    int           // of requests that came at once; below 0 after what must not happen again soon
	watched  bool          // watch runs
	looks    int           // since the processors were last found crowded
	rest     time.Duration // then
	resting  time.Time     // until then nobody looks for requests
}

// alone reports whether one reader is enough.
func (r *readers) alone() bool { return r.score >= loneFrom && !r.single }

// note takes down that a request came so long after the last answer, and whether
// there was another one at the same time.
func (r *readers) note(company bool, after time.Duration) {
	switch {
	case r.score < 0:
		r.score++
	case company:
		r.score = -afterCompany
	case after <= soon:
		r.score = min(r.score+1, loneMost)
	default:
		r.score = max(r.score-late, 0)
	}
}

// newReader makes a reader whose input buffer is populated and stays so: when a
// worker is killed while the kernel copies a request into memory that has to be
// faulted in, the kernel fails that request with EIO instead of keeping it for
// the next worker. Readers are used again and never freed.
func newReader() (*reader, error) {
	in, err := unix.Mmap(-1, 0, bufferSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("allocate a request buffer: %w", err)
	}
	_ = unix.Mlock(in) // beyond the limit of locked memory it is only likely to stay
	return &reader{in: in, out: make([]byte, bufferSize), more: make(chan struct{}, 1)}, nil
}

// startLocked has one more goroutine read. Without memory for it there are fewer.
func (s *Server) startLocked() {
	// A goroutine that waits has a stack that is large enough: a new one's grows
	// several times before it has answered.
	if n := len(s.mu.spare); n > 0 {
		s.mu.spare[n-1].more <- struct{}{}
		s.mu.spare = s.mu.spare[:n-1]
	} else {
		r, err := newReader()
		if err != nil {
			if s.mu.all == 0 {
				s.finishLocked(err)
			}
			return
		}
		go s.run(r)
	}
	s.mu.all++
	s.mu.idle++
}

// busy notes that a reader has got a request, and sees that another one waits
// unless this one is alone.
func (s *Server) busy() {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.received++
	s.mu.idle--
	company := s.mu.all-s.mu.idle > 1 || s.mu.idle == 0 && s.pending()
	s.mu.note(company, now.Sub(s.mu.answered))
	if s.mu.idle > 0 {
		return
	}
	if !s.mu.alone() {
		s.anotherLocked()
	} else if !s.mu.watched {
		s.mu.watched = true
		go s.watch()
	}
}

// anotherLocked starts one more reader if there may be one.
func (s *Server) anotherLocked() {
	if s.mu.all < s.cfg.Readers {
		s.startLocked()
	}
}

// again returns when a reader that has answered shall read another request.
func (s *Server) again(r *reader) {
	if s.enough(r) {
		<-r.more
	}
}

// enough puts a reader aside if enough others wait for requests.
func (s *Server) enough(r *reader) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	enough := idleReaders
	if s.mu.alone() {
		enough = 1
	}
	if s.mu.idle >= enough {
		s.mu.all--
		s.mu.spare = append(s.mu.spare, r)
		return true
	}
	s.mu.idle++
	s.mu.answered = time.Now()
	return false
}

// watch starts another reader when a lone one is kept: by the disk, by a lock, by a
// full journal. It ends when nothing is done any more, or not alone.
func (s *Server) watch() {
	tick := time.NewTicker(kept)
	defer tick.Stop()
	var seen uint64
	for range tick.C {
		if !s.watchOnce(&seen) {
			return
		}
	}
}

func (s *Server) watchOnce(seen *uint64) (goOn bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.received != *seen {
		*seen = s.mu.received
		return true
	}
	s.mu.watched = false
	if s.mu.idle == 0 {
		s.mu.score = -afterCompany
		s.anotherLocked()
	}
	return false
}

// look looks for the next request for a while, if the reader is alone.
func (s *Server) look() {
	s.mu.Lock()
	start := time.Now()
	look := s.mu.alone() && s.mu.all == 1 && start.After(s.mu.resting)
	if look {
		s.mu.looks++
	}
	s.mu.Unlock()
	if !look {
		return
	}
	for !s.pending() {
		before := time.Now()
		if before.Sub(start) > soon {
			return
		}
		// The program may have been woken on this very processor.
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		if after := time.Now(); after.Sub(before) > crowded {
			s.crowded(after)
			return
		}
	}
}

// crowded notes that there are more threads than processors.
func (s *Server) crowded(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.looks > crowdedLooks {
		s.mu.rest = 0
	}
	s.mu.looks = 0
	s.mu.rest = min(max(2*s.mu.rest, crowdedRest), crowdedMost)
	s.mu.resting = now.Add(s.mu.rest)
}

// pending reports whether a request can be read.
func (s *Server) pending() bool {
	fd := unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
	var now unix.Timespec
	n, _, _ := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fd)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return int(n) > 0
}
