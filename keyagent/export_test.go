package keyagent

import "time"

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
