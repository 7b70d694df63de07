package keyagent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"cmkfs/hsm"
)

// DefaultTimeout is what a call may take if Config says nothing.
const DefaultTimeout = 20 * time.Second

// Config says how to run the agent.
type Config struct {
	// Command is the argv of the agent process, for example
	// {"/proc/self/exe", "key-agent"}. It must call Serve(SocketFD). It
	// inherits the environment, which names identity endpoints and the
	// configuration of PKCS#11 modules.
	Command []string
	// StateDir is an existing directory in which the agent remembers refused
	// PINs, so that a wrong one is not tried again by its successor. Without
	// one ("") it remembers them only as long as it lives.
	StateDir string
	Log      *slog.Logger  // nil = slog.Default
	Timeout  time.Duration // per call; 0 = DefaultTimeout
}

// AEK is an account encryption key as it is stored: nothing in it is secret.
type AEK struct {
	Wrapped    hsm.Wrapped `json:"wrapped"`
	Commitment []byte      `json:"commitment"`
}

// VEK is a volume encryption key as it is stored: nothing in it is secret.
type VEK struct {
	Sealed     []byte `json:"sealed"`
	Commitment []byte `json:"commitment"`
}

// Client runs one agent process and calls it. Its methods may be used
// concurrently; every error they return is an *hsm.Error. A call that gets no
// answer before Config.Timeout or the context's deadline, whichever is first,
// kills the agent and fails as unreachable; the next call starts another.
type Client struct {
	*pool
	observe func(Call) // nil = nobody is told
}

// pool is the one agent that a client and those derived from it share.
type pool struct {
	cfg Config
	mu  struct {
		sync.Mutex
		agent  *process // nil = none running
		closed bool
	}
	retireAfter time.Duration  // what the constant says, but in tests
	retiring    sync.WaitGroup // timers that will call retire, or do
}

// retireAfter is how long an agent is used, from its first call on, before a
// fresh one takes its place.
const retireAfter = time.Second

// New returns a client; no process runs before the first call. From then on one
// does, but not the same: a second after its first call, or when the calls
// under way then have ended, an agent is replaced by a fresh one, so that what
// SDKs and modules leave in their memory is gone soon after a key was used.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Client{pool: &pool{cfg: cfg, retireAfter: retireAfter}}
}

// Another returns a client of the same configuration with an agent of its own,
// which has seen no key and got no token yet. Whoever observes c observes it.
func (c *Client) Another() *Client { return &Client{pool: New(c.cfg).pool, observe: c.observe} }

// Observed returns a client of the same agent that reports each of its calls to
// f when it has ended, before its caller goes on. Who observes c observes it too.
func (c *Client) Observed(f func(Call)) *Client {
	others := c.observe
	return &Client{pool: c.pool, observe: func(call Call) {
		if others != nil {
			others(call)
		}
		f(call)
	}}
}

// Close ends the agent and waits for its end. Calls under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	p := c.mu.agent
	c.mu.agent, c.mu.closed = nil, true
	if p != nil {
		c.stopLocked(p)
	}
	c.mu.Unlock()
	if p != nil {
		p.kill(endClosed)
		<-p.dead
	}
	c.retiring.Wait()
	return nil
}

// PID is the agent's process id, 0 if none runs.
func (c *Client) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.agent == nil || c.mu.agent.ended() {
		return 0
	}
	return c.mu.agent.cmd.Process.Pid
}

// Examine says whether a key can serve as customer-managed key: it reads the
// attributes, refuses a key that is no RSA key of 2048 bits or more, disabled,
// expired, not yet active or not recoverable, and really wraps and unwraps a
// random probe. Info is filled in as far as it was read, also with an error.
func (c *Client) Examine(ctx context.Context, key hsm.Config) (hsm.Info, error) {
	r, err := c.call(ctx, request{Op: opExamine, Key: key}, nil)
	return infoOf(r), err
}

// NewAEK makes an account encryption key, wraps it with the customer's key and
// unwraps it once for proof. aekID is the caller's name for it.
func (c *Client) NewAEK(ctx context.Context, key hsm.Config, aekID string) (AEK, error) {
	r, err := c.call(ctx, request{Op: opNewAEK, Key: key, AEKID: aekID}, nil)
	if err == nil && r.AEK == nil {
		err = malformed(opNewAEK)
	}
	if err != nil {
		return AEK{}, err
	}
	return *r.AEK, nil
}

// Check unwraps the stored AEK with the customer's key and compares it with its
// commitment. No error means that the lease may be renewed. Info is what the
// provider said about the version of the key that unwrapped it, for warnings
// such as an expiry, and in Newer about the newest one; it is empty if reading
// the attributes failed although unwrapping worked.
func (c *Client) Check(ctx context.Context, key hsm.Config, aekID string, a AEK) (hsm.Info, error) {
	r, err := c.call(ctx, request{Op: opCheck, Key: key, AEKID: aekID, AEK: &a}, nil)
	return infoOf(r), err
}

// NewVEK makes a volume encryption key and seals it under the AEK.
func (c *Client) NewVEK(ctx context.Context, key hsm.Config, aekID string, a AEK, volumeID [16]byte) (VEK, error) {
	r, err := c.call(ctx, request{Op: opNewVEK, Key: key, AEKID: aekID, AEK: &a, VolumeID: volumeID[:]}, nil)
	if err == nil && r.VEK == nil {
		err = malformed(opNewVEK)
	}
	if err != nil {
		return VEK{}, err
	}
	return *r.VEK, nil
}

// Release unseals the volume's key and writes its 32 bytes to to, which is the
// key socket of a worker. The caller keeps to and closes it.
func (c *Client) Release(ctx context.Context, key hsm.Config, aekID string, a AEK, volumeID [16]byte, v VEK, to *os.File) error {
	_, err := c.call(ctx, request{Op: opRelease, Key: key, AEKID: aekID, AEK: &a, VolumeID: volumeID[:], VEK: &v}, to)
	return err
}

// ListKeys lists the keys of the vault or token that key names; its key name
// may be empty. hsm.Info.Usable says which of them can be used.
func (c *Client) ListKeys(ctx context.Context, key hsm.Config) ([]hsm.Info, error) {
	r, err := c.call(ctx, request{Op: opListKeys, Key: key}, nil)
	return r.Keys, err
}

func infoOf(r reply) hsm.Info {
	if r.Info == nil {
		return hsm.Info{}
	}
	return *r.Info
}

func malformed(op string) error {
	return unreachable(op, "AgentProtocol", "The key agent gave an answer without a result", nil)
}

func unreachable(op, reason, message string, err error) error {
	return &hsm.Error{Op: op, Kind: hsm.KindUnreachable, Reason: reason, Message: message, Err: err}
}

// call makes one call and reports it to the observer.
func (c *Client) call(ctx context.Context, req request, file *os.File) (reply, error) {
	began := time.Now()
	r, err := c.ask(ctx, req, file)
	if c.observe != nil {
		c.observe(Call{Op: req.Op, Key: req.Key, AEKID: req.AEKID, Operations: r.Operations, Err: err, Took: time.Since(began)})
	}
	return r, err
}

// ask sends one request and waits for its answer. If this client killed the
// agent because of *another* call's deadline, or because it did not even read
// this request, the fresh one is asked; an agent that died by itself may have died of this request,
// so it is not.
func (c *Client) ask(ctx context.Context, req request, file *os.File) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req.StateDir = c.cfg.StateDir
	for {
		p, err := c.agent()
		if err != nil {
			return reply{}, unreachable(req.Op, "AgentStart", "The key agent could not be started", err)
		}
		r, end, err := p.roundTrip(ctx, req, file)
		c.release(p)
		switch {
		case err != nil:
			return reply{}, unreachable(req.Op, "AgentProtocol", "The key agent could not be asked", err)
		case end == endNone:
			return r, r.Error.toError()
		case end == endHung && ctx.Err() == nil:
			continue
		case end == endHung || end == endDeadline:
			return reply{}, unreachable(req.Op, "AgentHung", "The key did not answer in time, the key agent was replaced", ctx.Err())
		case end == endCancelled:
			return reply{}, unreachable(req.Op, "Cancelled", "The key operation was given up", ctx.Err())
		case end == endClosed:
			return reply{}, unreachable(req.Op, "AgentClosed", "The key agent is being shut down", nil)
		default:
			return reply{}, unreachable(req.Op, "AgentDied", "The key agent ended before it had answered", p.exitError())
		}
	}
}

// agent returns the running agent or starts one. The caller releases it.
func (c *Client) agent() (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, fmt.Errorf("keyagent: client is closed")
	}
	if c.mu.agent == nil || c.mu.agent.ended() {
		if c.mu.agent != nil {
			c.stopLocked(c.mu.agent)
		}
		p, err := start(c.cfg)
		if err != nil {
			return nil, err
		}
		c.mu.agent = p
	}
	p := c.mu.agent
	p.calls++
	if p.timer == nil {
		c.retiring.Add(1)
		p.timer = time.AfterFunc(c.retireAfter, func() {
			defer c.retiring.Done()
			c.retire(p)
		})
	}
	return p, nil
}

// stopLocked stops the timer of an agent.
func (c *Client) stopLocked(p *process) {
	if p.timer != nil && p.timer.Stop() {
		c.retiring.Done()
	}
}

// release ends a call's use of an agent.
func (c *Client) release(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.calls--
	if p.calls == 0 && p.due && p == c.mu.agent {
		c.retiring.Add(1)
		go func() {
			defer c.retiring.Done()
			c.retire(p)
		}()
	}
}

// retire replaces an agent whose time is up by one that has seen no key, now or
// when its last call ends.
func (c *Client) retire(p *process) {
	c.mu.Lock()
	p.due = true
	if p != c.mu.agent || p.calls > 0 {
		c.mu.Unlock()
		return
	}
	fresh, err := start(c.cfg)
	if err != nil {
		fresh = nil // the next call tries again and reports it
	}
	c.mu.agent = fresh
	c.mu.Unlock()
	p.kill(endRetired)
	<-p.dead
}
