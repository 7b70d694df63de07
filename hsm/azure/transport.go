package azure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

const dialTimeout = 5 * time.Second

// roots are the system's and those of caFile, nil for the system's alone.
func roots(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without any is no reason to fail here
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s contains no PEM certificate", caFile)
	}
	return pool, nil
}

// endpoint completes IP[:PORT]; "" stays "".
func endpoint(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(ip, 443).String(), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return "", fmt.Errorf("a private endpoint is IP or IP:PORT, not %q", s)
	}
	return ap.String(), nil
}

// newTransport returns a transport that reaches the host pinned (and no other)
// at address, if address is not "".
func newTransport(pinned, address string, pool *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: tryTimeout,
		IdleConnTimeout:       time.Minute,
		ForceAttemptHTTP2:     true,
	}
	t.DialContext = dialer.DialContext
	if address != "" {
		t.Proxy = nil // a private endpoint is reached directly
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, _, err := net.SplitHostPort(addr); err == nil && host == pinned {
				addr = address
			}
			return dialer.DialContext(ctx, network, addr)
		}
	}
	return t
}

// newHTTPClient follows no redirect: a token is for the vault only.
func newHTTPClient(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// challengeError is an authentication challenge that no vault would send.
type challengeError struct{ why string }

func (e *challengeError) Error() string { return "authentication challenge: " + e.why }

// NonRetriable tells the SDK not to send the request again.
func (e *challengeError) NonRetriable() {}

// checkChallenge refuses challenges that the SDK would trip over: it takes the
// tenant from the authorization's path and panics if there is none.
type checkChallenge struct{ next http.RoundTripper }

func (c checkChallenge) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	if err := validChallenge(resp.Header.Get("WWW-Authenticate")); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func validChallenge(header string) error {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &challengeError{"it does not ask for a bearer token"}
	}
	values := map[string]string{}
	for _, part := range strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == ',' }) {
		name, value, _ := strings.Cut(part, "=")
		values[name] = strings.Trim(value, `"`)
	}
	u, err := url.Parse(values["authorization"])
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return &challengeError{"it names no tenant"}
	}
	if values["resource"] == "" && values["scope"] == "" {
		return &challengeError{"it names no resource"}
	}
	return nil
}

func (c checkChallenge) CloseIdleConnections() {
	if t, ok := c.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// networkReason is one word for why there was no answer.
func networkReason(err error) string {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &dns):
		return "DNS"
	case errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert):
		return "TLS"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "Timeout"
	}
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return "Timeout"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return "Connect"
	}
	return "Connection"
}
