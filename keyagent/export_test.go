package keyagent

import "time"

// SetRetireAfter lets a test that looks at process ids keep its agent.
func (c *Client) SetRetireAfter(d time.Duration) { c.retireAfter = d }
