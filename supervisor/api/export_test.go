package api

import "net/http"

// SetTransport gives a client another way to the daemon.
func (c *Client) SetTransport(t http.RoundTripper) { c.http.Transport = t }
