package drill

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// proxy stands between the daemon and its vault. Names, certificates and
// contents pass through it untouched.
type proxy struct {
	p        *toxiproxy.Proxy
	upstream string
}

// newProxy listens at an address and passes on to another.
func newProxy(listen, upstream string) (*proxy, error) {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "vault", listen, upstream)
	if err := p.Start(); err != nil {
		return nil, fmt.Errorf("the proxy before the vault: %w", err)
	}
	return &proxy{p, upstream}, nil
}

// address is where the daemon has to go.
func (p *proxy) address() string { return p.p.Listen }

func (p *proxy) close() { p.p.Stop() }

// set changes where to, and whether at all.
func (p *proxy) set(upstream string, enabled bool) error {
	return p.p.Update(&toxiproxy.Proxy{Listen: p.p.Listen, Upstream: upstream, Enabled: enabled})
}

// toxic spoils what passes in one direction.
func (p *proxy) toxic(kind, direction, attribute string, value time.Duration) error {
	_, err := p.p.Toxics.AddToxicJson(bytes.NewBufferString(fmt.Sprintf(
		`{"type":%q,"stream":%q,"attributes":{%q:%d}}`, kind, direction, attribute, value.Milliseconds())))
	return err
}

// blackHole lets connections be made and nothing pass.
func (p *proxy) blackHole() error {
	if err := p.toxic("timeout", "upstream", "timeout", 0); err != nil {
		return err
	}
	return p.toxic("timeout", "downstream", "timeout", 0)
}

// refuse has nobody listen.
func (p *proxy) refuse() error { return p.set(p.upstream, false) }

// reset ends connections with a TCP reset when the answer comes.
func (p *proxy) reset() error { return p.toxic("reset_peer", "downstream", "timeout", 0) }

// slow delays every answer.
func (p *proxy) slow(by time.Duration) error { return p.toxic("latency", "downstream", "latency", by) }

// divert sends to somebody else.
func (p *proxy) divert(to string) error { return p.set(to, true) }

// heal passes everything on again.
func (p *proxy) heal(ctx context.Context) error {
	p.p.Toxics.ResetToxics(ctx)
	return p.set(p.upstream, true)
}
