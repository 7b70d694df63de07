package keyagent

import (
	"encoding/json"
	"log/slog"
	"time"
)

// SetRetireAfter lets a test that looks at process ids keep its agent.
func (c *Client) SetRetireAfter(d time.Duration) { c.retireAfter = d }

// Pending is the number of calls that wait for the running agent.
func (c *Client) Pending() int {
	c.mu.Lock()
	p := c.mu.agent
	c.mu.Unlock()
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.pending)
}

// Deliver gives messages of an agent to a call with the number 1, up to the
// first that is malformed. It returns how many replies the call got, and the
// error in the last of them before and after another way over the socket.
func Deliver(messages [][]byte) (replies int, first, second string) {
	w := &waiter{accepted: make(chan struct{}), ch: make(chan reply, 1)}
	p := &process{log: slog.New(slog.DiscardHandler), dead: make(chan struct{})}
	p.mu.pending = map[uint64]*waiter{1: w}
	for _, b := range messages {
		var r reply
		if json.Unmarshal(b, &r) != nil {
			break
		}
		p.deliver(r)
		select {
		case r = <-w.ch:
			replies++
			if err := r.Error.toError(); err != nil {
				first, second = err.Error(), toWire("op", err).toError().Error()
			}
		default:
		}
	}
	return replies, first, second
}

// RecodeRequest reads a request and writes it.
func RecodeRequest(b []byte) ([]byte, error) {
	var r request
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	r.busyIsHung()
	return json.Marshal(r)
}
