package azure

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"cmkfs/hsm"
)

// The steps of a Probe.
const (
	StepDNS = "DNS"
	StepTCP = "TCP"
	StepTLS = "TLS"
)

// ProbeStep is one step on the way to a vault.
type ProbeStep struct {
	Name   string
	Detail string        // what was found out
	Took   time.Duration // all of it
	Err    error         // an *hsm.Error; nil = this far it works
}

// Probe goes the way to a vault step by step as a key of it would, without an
// identity, so that a failure is found where it happens. The last step is the
// failed one, or StepTLS.
func Probe(ctx context.Context, cfg hsm.AzureConfig) []ProbeStep {
	p := probe{key: &key{cfg: cfg, id: cfg.VaultURI}}
	defer p.close()
	for _, s := range []struct {
		name string
		f    func(context.Context) (string, error)
	}{{StepDNS, p.resolve}, {StepTCP, p.connect}, {StepTLS, p.handshake}} {
		began := time.Now()
		stepCtx, cancel := context.WithTimeout(ctx, dialTimeout)
		detail, err := s.f(stepCtx)
		cancel()
		p.steps = append(p.steps, ProbeStep{s.name, detail, time.Since(began), err})
		if err != nil {
			break
		}
	}
	return p.steps
}

type probe struct {
	key    *key // as far as errors need it
	steps  []ProbeStep
	at     string // host and port to connect to
	pinned bool
	proxy  *url.URL // nil = directly
	conn   net.Conn
}

func (p *probe) close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

// network is an error of the network on the way.
func (p *probe) network(reason string, err error) error {
	f := failure{&hsm.Error{Op: "connect", KeyID: p.key.id}, p.key}
	f.unanswered(reason, err)
	if p.proxy != nil {
		f.Hint = "check the proxy " + p.proxy.Host + " that the environment names (HTTPS_PROXY, NO_PROXY)"
	}
	return f.Error
}

func (p *probe) misconfigured(reason, message string, err error) error {
	return &hsm.Error{Op: "open", KeyID: p.key.id, Kind: hsm.KindMisconfigured, Reason: reason, Message: message, Err: err}
}

func (p *probe) resolve(ctx context.Context) (string, error) {
	vault, err := hsm.ParseVaultURI(p.key.cfg.VaultURI)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(vault)
	if err != nil {
		return "", p.misconfigured("BadURI", hsm.BadVaultURI.Error(), err)
	}
	p.key.host = u.Hostname()
	p.at, err = endpoint(p.key.cfg.PrivateEndpoint)
	if err != nil {
		return "", p.misconfigured("PrivateEndpoint", "The private endpoint is not valid", err)
	}
	if p.at != "" {
		p.pinned = true
		return "not asked: the private endpoint is " + p.key.cfg.PrivateEndpoint, nil
	}
	host := p.key.host
	p.at = net.JoinHostPort(host, "443")
	if p.proxy, err = http.ProxyFromEnvironment(&http.Request{URL: u}); err != nil {
		return "", p.misconfigured("Proxy", "The proxy that the environment names is not valid", err)
	}
	if p.proxy != nil {
		host = p.proxy.Hostname()
		p.at = net.JoinHostPort(host, cmp.Or(p.proxy.Port(), map[string]string{"http": "80", "https": "443", "socks5": "1080"}[p.proxy.Scheme]))
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", p.network(networkReason(err), err)
	}
	detail := strings.Join(addresses, ", ")
	if p.proxy != nil {
		detail = "of the proxy " + p.proxy.Host + ": " + detail
	}
	return detail, nil
}

func (p *probe) connect(ctx context.Context) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.at)
	if err != nil {
		return "", p.network(networkReason(err), err)
	}
	p.conn = conn
	return conn.RemoteAddr().String(), nil
}

// handshake makes the vault prove that it is the vault, and asks it how it sees
// this host. That it may not know how to answer is no failure.
func (p *probe) handshake(ctx context.Context) (string, error) {
	pool, err := roots(p.key.cfg.CAFile)
	if err != nil {
		return "", p.misconfigured("CAFile", msgBadCA, err)
	}
	pinned := ""
	if p.pinned {
		pinned = p.at
	}
	t := newTransport(p.key.host, pinned, pool)
	t.DialContext = func(context.Context, string, string) (net.Conn, error) { return p.conn, nil }
	t.DisableKeepAlives = true // the connection is asked for once
	var version uint16         // 0 = the handshake failed
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeDone: func(s tls.ConnectionState, err error) {
		if err == nil {
			version = s.Version
		}
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.key.host+"/healthstatus", nil)
	if err != nil {
		return "", p.misconfigured("BadURI", hsm.BadVaultURI.Error(), err)
	}
	resp, err := newHTTPClient(t).Do(req)
	if err != nil && version == 0 {
		reason := networkReason(err)
		if reason == "Connection" {
			reason = "TLS" // whoever answers ends the connection, or does not speak TLS
		}
		return "", p.network(reason, err)
	}
	detail := tls.VersionName(version)
	if err != nil {
		return detail, nil
	}
	defer resp.Body.Close()
	if region := resp.Header.Get("x-ms-keyvault-region"); region != "" {
		detail += ", region " + region
	}
	if seen := resp.Header.Get("x-ms-keyvault-network-info"); seen != "" {
		detail += ", seen as " + strings.TrimSuffix(firstLine(seen), ";")
	}
	return detail, nil
}
