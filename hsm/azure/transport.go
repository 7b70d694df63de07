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

		MaxResponseHeaderBytes: 64 << 10,
	}
	t.DialContext = dialer.DialContext
	if address != "" {
		t.Proxy = nil // a private endpoint is reached directly
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, _, err := net.SplitHostPort(addr); err == nil && strings.EqualFold(host, pinned) {
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
