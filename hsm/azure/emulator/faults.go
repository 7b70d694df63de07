package emulator

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// The kinds of Fault; bend.go has more.
const (
	FaultThrottle  = "throttle"   // 429 with Retry-After
	FaultStatus    = "status"     // any status, as the service's front end answers
	FaultDelay     = "delay"      // the right answer, late
	FaultReset     = "reset"      // the connection is reset instead of an answer
	FaultBlackHole = "black-hole" // no answer, ever
	FaultRefuse    = "refuse"     // as if the host name did not exist: TLS is refused
)

// Fault makes matching requests fail.
type Fault struct {
	Kind       string        `json:"kind"`
	Vault      string        `json:"vault,omitempty"` // "" = all
	Op         string        `json:"op,omitempty"`    // get, decrypt, token …; "" = all
	Count      int           `json:"count,omitempty"` // so many requests; 0 = until cleared
	Status     int           `json:"status,omitempty"`
	RetryAfter int           `json:"retryAfter,omitempty"` // seconds
	Delay      time.Duration `json:"delay,omitempty"`
}

func (f *Fault) validate() error {
	switch f.Kind {
	case FaultThrottle, FaultReset, FaultBlackHole, FaultGarbage, FaultWrongKey, FaultTruncate, FaultDrip, FaultHuge:
	case FaultRefuse:
		if f.Op != "" {
			return fmt.Errorf("a refused connection has no operation")
		}
	case FaultStatus:
		if f.Status < 400 || f.Status > 599 {
			return fmt.Errorf("status %d is no error", f.Status)
		}
	case FaultDelay:
		if f.Delay <= 0 {
			return fmt.Errorf("the delay is missing")
		}
	default:
		return fmt.Errorf("fault %q is unknown", f.Kind)
	}
	return nil
}

// take returns the first fault that matches, and counts it.
func (s *state) take(vault, op string, refuse bool) *Fault {
	for i, f := range s.Faults {
		if (f.Kind == FaultRefuse) != refuse || (f.Vault != "" && f.Vault != vault) || (f.Op != "" && f.Op != op) {
			continue
		}
		if f.Count > 0 {
			if f.Count--; f.Count == 0 {
				s.Faults = append(s.Faults[:i:i], s.Faults[i+1:]...)
			}
		}
		return f
	}
	return nil
}

// apply performs a fault; false means that the request goes on.
func (e *Emulator) apply(f *Fault, w http.ResponseWriter, r *http.Request) bool {
	switch f.Kind {
	case FaultThrottle:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
		fail(w, http.StatusTooManyRequests, "Throttled", "", "Request was not processed because too many requests were received.")
	case FaultStatus:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
		fail(w, f.Status, "InternalServerError", "", http.StatusText(f.Status))
	case FaultDelay:
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
		case <-e.closing:
		}
		return false
	case FaultBlackHole:
		select {
		case <-r.Context().Done():
		case <-e.closing:
		}
		panic(http.ErrAbortHandler)
	case FaultReset:
		reset(w)
	}
	return true
}

// reset ends the connection with a TCP reset.
func reset(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	inner := c
	if t, ok := c.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	if t, ok := inner.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	inner.Close()
}
