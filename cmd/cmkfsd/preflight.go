package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/keyagent"
	"cmkfs/supervisor/api"
)

type accountCheckCmd struct{ outputFlag }

// Help has the command's example.
func (*accountCheckCmd) Help() string {
	return "Asks the key from this process, without a daemon, and says how far it got: the network, the identity, the key's attributes, encrypting and decrypting, and at last the account's own key. Nothing is changed.\n\nExample:\n  cmkfsd account check"
}

// preflightStep is one line of the check.
type preflightStep struct {
	Step   string `json:"step"`
	Result string `json:"result"` // ok, failed, skipped
	Detail string `json:"detail,omitempty"`
}

// preflight collects the steps up to the first failure.
type preflight struct {
	steps []preflightStep
	err   error
}

// do makes one step unless an earlier one failed.
func (p *preflight) do(step string, f func() (detail string, err error)) {
	if p.err != nil {
		p.steps = append(p.steps, preflightStep{Step: step, Result: "skipped"})
		return
	}
	detail, err := f()
	if err != nil {
		p.err = err
		p.steps = append(p.steps, preflightStep{Step: step, Result: "failed", Detail: err.Error()})
		return
	}
	p.steps = append(p.steps, preflightStep{Step: step, Result: "ok", Detail: detail})
}

// networkTimeout bounds each of DNS, TCP and TLS.
const networkTimeout = 10 * time.Second

// Run asks the key.
func (c *accountCheckCmd) Run(s *session) error {
	d, a, err := s.account()
	if err != nil {
		return err
	}
	k := a.Current()
	if k == nil {
		return api.Errorf(api.CodeNotFound, "the account has no key yet")
	}
	var p preflight
	if k.Key.Azure != nil {
		p.network(s.ctx, k.Key.Azure)
	}
	agent, err := s.keyAgent(d)
	if err != nil {
		return err
	}
	p.key(s.ctx, agent, k)
	if c.Output == "json" {
		err = s.printJSON(struct {
			KeySource string          `json:"keySource"`
			KeyID     string          `json:"keyId"`
			Steps     []preflightStep `json:"steps"`
		}{k.Source, k.Wrapped.KeyID, p.steps})
	} else {
		var rows [][]string
		for _, step := range p.steps {
			rows = append(rows, []string{step.Step, step.Result, step.Detail})
		}
		s.printTable(nil, rows)
	}
	if err != nil {
		return err
	}
	return p.err
}

// network goes to the vault without an identity, so that a failure is found
// where it happens.
func (p *preflight) network(ctx context.Context, a *hsm.AzureConfig) {
	host, port, address := vaultAddress(a)
	failed := func(reason, message string, err error) error {
		return &hsm.Error{Op: "connect", KeyID: a.VaultURI, Kind: hsm.KindUnreachable, Reason: reason, Message: "Could not connect to the KeyVault: " + message, Err: err}
	}
	p.do("DNS", func() (string, error) {
		if address != host {
			return "not asked: the private endpoint is " + address, nil
		}
		ctx, cancel := context.WithTimeout(ctx, networkTimeout)
		defer cancel()
		addresses, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return "", failed("NoSuchHost", "its name cannot be resolved", err)
		}
		return strings.Join(addresses, ", "), nil
	})
	var conn net.Conn
	p.do("TCP", func() (detail string, err error) {
		d := net.Dialer{Timeout: networkTimeout}
		if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(address, port)); err != nil {
			return "", failed("NoConnection", "nothing answers at its address", err)
		}
		return conn.RemoteAddr().String(), nil
	})
	if conn != nil {
		defer conn.Close()
	}
	p.do("TLS", func() (string, error) {
		roots, err := rootsWith(a.CAFile)
		if err != nil {
			return "", &hsm.Error{Op: "connect", KeyID: a.VaultURI, Kind: hsm.KindMisconfigured, Reason: "BadCA", Message: "The CA file cannot be used", Err: err}
		}
		ctx, cancel := context.WithTimeout(ctx, networkTimeout)
		defer cancel()
		t := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12})
		if err := t.HandshakeContext(ctx); err != nil {
			return "", failed("TLS", "it cannot prove to be the vault", err)
		}
		return tls.VersionName(t.ConnectionState().Version), nil
	})
}

// vaultAddress returns the vault's host name and port, and where to connect to.
func vaultAddress(a *hsm.AzureConfig) (host, port, address string) {
	port = "443"
	if u, err := url.Parse(a.VaultURI); err == nil { // it was checked when it was set
		host = u.Hostname()
		if u.Port() != "" {
			port = u.Port()
		}
	}
	if a.PrivateEndpoint == "" {
		return host, port, host
	}
	if h, p, err := net.SplitHostPort(a.PrivateEndpoint); err == nil {
		return host, p, h
	}
	return host, port, a.PrivateEndpoint
}

// rootsWith returns the system's roots and those of a file; nil means the
// system's only.
func rootsWith(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", file)
	}
	return roots, nil
}

// keySteps are what an examination does, by the operation that a failure of it
// names, in order.
var keySteps = map[string][]string{
	hsm.SourcePlatform: {"open", "encrypt", "decrypt"},
	hsm.SourcePKCS11:   {"open", "login", "get", "encrypt", "decrypt"},
	hsm.SourceKeyVault: {"token", "get", "encrypt", "decrypt"},
}

// key examines the key, and decrypts the account's own.
func (p *preflight) key(ctx context.Context, agent *keyagent.Client, k *account.AEKRecord) {
	steps := keySteps[k.Source]
	if p.err != nil {
		for _, step := range append(slices.Clone(steps), "account key") {
			p.do(step, nil)
		}
		return
	}
	info, err := agent.Examine(ctx, k.Key)
	var keyErr *hsm.Error
	failedAt := ""
	if errors.As(err, &keyErr) {
		failedAt = keyErr.Op
		if !slices.Contains(steps, failedAt) {
			steps = append([]string{failedAt}, steps...)
		}
	}
	for _, step := range steps {
		p.do(step, func() (string, error) {
			if step == failedAt {
				return "", err
			}
			if step == "get" || step == "open" && k.Source == hsm.SourcePlatform {
				return describeKey(info), nil
			}
			return "", nil
		})
	}
	p.do("account key", func() (string, error) {
		if err != nil { // it named no step of its own
			return "", err
		}
		_, err := agent.Check(ctx, k.Key, k.ID, keyagent.AEK{Wrapped: k.Wrapped, Commitment: k.Commitment})
		return "decrypted with " + k.Wrapped.KeyID, err
	})
}

func describeKey(info hsm.Info) string {
	var words []string
	if info.Type != "" {
		words = append(words, info.Type)
	}
	if info.Bits > 0 {
		words = append(words, fmt.Sprintf("%d bits", info.Bits))
	}
	if !info.Expires.IsZero() {
		words = append(words, "expires "+showTime(info.Expires))
	}
	if info.RecoveryLevel != "" {
		words = append(words, info.RecoveryLevel)
	}
	return strings.Join(words, ", ")
}
