package fs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrAbandoned is how Serve ends when the volume stopped after an I/O error and
// the kernel can send the unanswered requests to the next worker.
var ErrAbandoned = errors.New("volume stopped; its requests are left to the next worker")

// ServeConfig is what a worker needs to serve a mounted volume.
type ServeConfig struct {
	Volume Volume
	File   *os.File   // /dev/fuse as inherited; stays open until the process ends
	Init   []byte     // the kernel's INIT request, from Device.Init
	Nodes  *NodeTable // shared with the supervisor
	Mount  MountConfig
	// Session is the random number of this mount, the same for all its
	// workers. It makes requests that are sent again exactly-once.
	Session uint64
	Resend  bool          // the kernel can send requests again, from Device.Resend
	Errno   syscall.Errno // for Suspend when it is given none; 0 = ENOKEY
	// Readers bounds the requests handled at a time; 0 = 32, at most 128.
	Readers int
	// Closed, if set, is called by Suspend when nothing is let through any more.
	Closed func()
	Log    *slog.Logger
}

// Server answers the requests of one mounted volume, in one worker process.
type Server struct {
	cfg     ServeConfig
	fd      int
	proto   *fuse.ProtocolServer
	adapter *adapter
	gate    *gate
	slots   chan int // free places in the table's list of requests in flight

	suspendMu sync.Mutex // held by Suspend

	mu struct {
		sync.Mutex
		readers
		stopped bool  // Serve returns or has returned
		err     error // with this
	}
	stop chan struct{} // closed with mu.stopped
}

// NewServer prepares to serve: it replays INIT, so that requests are decoded as
// the supervisor agreed with the kernel. Nothing is read before Serve.
func NewServer(cfg ServeConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Errno == 0 {
		cfg.Errno = syscall.ENOKEY
	}
	if cfg.Readers <= 0 {
		cfg.Readers = defaultReaders
	}
	cfg.Readers = min(cfg.Readers, maxReaders)
	s := &Server{
		cfg:   cfg,
		fd:    int(cfg.File.Fd()),
		gate:  newGate(),
		slots: make(chan int, inflightSlots),
		stop:  make(chan struct{}),
	}
	s.mu.single = runtime.GOMAXPROCS(0) == 1
	for i := range inflightSlots {
		s.slots <- i
	}
	s.adapter = &adapter{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		vol:           cfg.Volume,
		nodes:         cfg.Nodes,
		session:       cfg.Session,
		errs:          newErrorLog(cfg.Log, cfg.Resend),
		caching:       s.gate.open,
		// A kernel that has forgotten the node has no attributes either.
		forgetAttr: func(ino uint64) { _ = invalidateAttr(s.fd, ino) },
	}
	s.proto = fuse.NewProtocolServer(s.adapter, cfg.Mount.protocolOptions(cfg.Log))
	if _, err := answerInit(s.proto, cfg.Init); err != nil {
		return nil, err
	}
	s.Remounted(cfg.Mount)
	return s, nil
}

// answerInit has the protocol server agree with the kernel and returns its
// reply.
func answerInit(p *fuse.ProtocolServer, init []byte) ([]byte, error) {
	if m := message(init); !m.valid() || m.opcode() != opInit {
		return nil, errors.New("FUSE: not an INIT request")
	}
	out := make([]byte, 4096)
	n, st := p.HandleRequest([][]byte{init}, [][]byte{out})
	if !st.Ok() || n < outHeaderSize || binary.NativeEndian.Uint32(out[4:]) != 0 {
		return nil, errors.New("FUSE: the kernel's protocol version is not supported")
	}
	return out[:n], nil
}

// Serve takes over from whoever served before and answers requests until the
// file system is unmounted or Suspend has finished, both of which are no error.
// Its goroutines may stay blocked afterwards; they end with the
// process, and until then refuse what they read.
func (s *Server) Serve() error {
	s.adapter.reclaim()
	if err := s.takeOver(); err != nil {
		if errors.Is(err, errGone) {
			return nil
		}
		return err
	}
	s.mu.Lock()
	s.startLocked()
	s.mu.Unlock()
	<-s.stop
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.err
}

// takeOver sees to the requests of a dead worker, before any is read here.
func (s *Server) takeOver() error {
	left := s.cfg.Nodes.takeInflight()
	if s.cfg.Resend {
		return resend(s.fd)
	}
	// This kernel does not send them again. They may have been applied or
	// not, so nothing better can be said than that they failed.
	for _, u := range left {
		if err := reply(s.fd, errorReply(u, syscall.EIO)); err != nil {
			return err
		}
	}
	return nil
}

// finish makes Serve return.
func (s *Server) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(err)
}

func (s *Server) finishLocked(err error) {
	if !s.mu.stopped {
		s.mu.stopped, s.mu.err = true, err
		close(s.stop)
	}
}

// run reads and handles requests.
func (s *Server) run(r *reader) {
	for {
		s.look()
		n, err := unix.Read(s.fd, r.in)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT):
			continue // interrupted, or the request was before we had it
		case gone(err):
			s.finish(nil)
			return
		default:
			s.finish(fmt.Errorf("read a FUSE request: %w", err))
			return
		}
		m := message(r.in[:n])
		if m.valid() && m.forgetting() {
			// Done before another reader could be woken up for what comes next.
			m.forgets(s.adapter.forget)
			continue
		}
		s.busy()
		s.serve(r, m)
		s.again(r)
	}
}

// Handle serves a request that the supervisor had read when this worker took
// over. It returns at once.
func (s *Server) Handle(request []byte) {
	r := &reader{in: append([]byte(nil), request...), out: make([]byte, bufferSize)}
	go s.serve(r, r.in)
}

// serve handles one request.
func (s *Server) serve(r *reader, m message) {
	if !m.valid() {
		s.finish(fmt.Errorf("read a FUSE request: damaged header, %d bytes", len(m)))
		return
	}
	if m.forgetting() {
		m.forgets(s.adapter.forget)
		return
	}
	switch m.opcode() {
	case opInterrupt:
		// No operation waits for anything that could be given up.
		if u, ok := s.gate.interrupted(m.u64(0) &^ uniqueResend); ok {
			s.answer(errorReply(u, syscall.EINTR))
		}
		return
	case opNotifyReply:
		return
	case opDestroy:
		s.answer(errorReply(m.unique(), 0))
		return
	}
	if m.reserved() {
		errno := syscall.EPERM
		if m.opcode() == opLookup {
			errno = syscall.ENOENT
		}
		s.answer(errorReply(m.unique(), errno))
		return
	}
	c, errno := s.gate.enter(m)
	if errno != 0 {
		s.answer(errorReply(m.unique(), refusal(m, errno)))
		return
	}
	if c != nil {
		s.do(r, m, c)
	}
}

// do has a call carried out.
func (s *Server) do(r *reader, m message, c *call) {
	slot := <-s.slots
	s.cfg.Nodes.begin(slot, m.unique())
	if s.handle(r, m, c) {
		s.cfg.Nodes.end(slot)
		s.slots <- slot
		s.gate.leave(c)
	}
}

// refusal is the errno for a request that is not let through. Letting go of
// something always works.
func refusal(m message, errno syscall.Errno) syscall.Errno {
	switch m.opcode() {
	case opRelease, opReleasedir, opDestroy:
		return 0
	}
	return errno
}

// handle has the volume do what a request asks and answers it. It returns false
// if the request stays unanswered, for the next worker.
func (s *Server) handle(r *reader, m message, c *call) bool {
	var out []byte
	switch m.opcode() {
	case opSyncfs:
		st := s.adapter.errs.status("syncfs", m.node(), s.cfg.Volume.Sync(context.Background()))
		out = errorReply(m.unique(), syscall.Errno(st))
	case opRead:
		out = s.adapter.read(m, r.out)
	default:
		n, st := s.proto.HandleRequest([][]byte{m}, [][]byte{r.out})
		out = r.out[:n]
		if !st.Ok() || n < outHeaderSize {
			out = errorReply(m.unique(), syscall.EIO)
		}
	}
	if int32(binary.NativeEndian.Uint32(out[4:])) == -int32(statusAbandon) {
		s.finish(ErrAbandoned)
		if s.gate.open() {
			// Suspend, should it come, answers it.
			return false
		}
		out = errorReply(m.unique(), syscall.EIO)
	}
	if c.answered.CompareAndSwap(false, true) {
		s.answer(out)
	}
	return true
}

// answer writes a reply.
func (s *Server) answer(b []byte) {
	if err := reply(s.fd, b); errors.Is(err, errGone) {
		s.finish(nil)
	} else if err != nil {
		s.cfg.Log.Error("a reply was refused by the kernel", "err", err)
	}
}
