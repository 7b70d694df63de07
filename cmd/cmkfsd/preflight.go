package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/hsm/azure"
	"cmkfs/keyagent"
	"cmkfs/supervisor/api"
)

type accountCheckCmd struct {
	keyFlags
	outputFlag
}

// Help has the command's examples.
func (*accountCheckCmd) Help() string {
	return "Asks the key from this process, without a daemon, and says how far it got: the network, the identity, the key's attributes, encrypting and decrypting, and at last the account's own key. With flags it asks another key, which account update may take then. Nothing is changed, but it is in the audit log.\n\nExamples:\n  cmkfsd account check\n  cmkfsd account check --key-uri https://acme.vault.azure.net/keys/volumes --key-vault-private-endpoint 10.0.0.4"
}

// preflightStep is one line of the check.
type preflightStep struct {
	Step   string `json:"step"`
	Result string `json:"result"` // ok, failed, skipped
	Millis int64  `json:"ms,omitempty"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"` // of a failed one: what to do next
}

// preflight collects the steps up to the first failure.
type preflight struct {
	steps   []preflightStep
	err     error
	reached bool // the vault or token itself answered
}

// passed adds a step that worked; after a failure, one that was not tried.
func (p *preflight) passed(step, detail string, took time.Duration) {
	if p.err != nil {
		p.steps = append(p.steps, preflightStep{Step: step, Result: "skipped"})
		return
	}
	p.steps = append(p.steps, preflightStep{Step: step, Result: "ok", Millis: took.Milliseconds(), Detail: detail})
}

// failed adds the step that failed.
func (p *preflight) failed(step string, err error, took time.Duration) {
	_, hint := classify(err)
	p.err = err
	p.steps = append(p.steps, preflightStep{Step: step, Result: "failed", Millis: took.Milliseconds(), Detail: api.ErrorOf(err).Message, Hint: hint})
}

// Run asks the key.
func (c *accountCheckCmd) Run(s *session) error {
	d, a, err := s.account()
	if err != nil {
		return err
	}
	k := a.Current()
	key, err := c.key(a, k)
	if err != nil {
		return err
	}
	agent, err := s.keyAgent(d, a, "account check", "")
	if err != nil {
		return err
	}
	var p preflight
	if key.Azure != nil {
		p.network(s.ctx, *key.Azure)
	}
	id := p.key(s.ctx, agent, a, *key)
	if k != nil && sameKey(k.Key, *key) { // if only how it is reached, or by whom, is another
		id = k.Wrapped.KeyID
		p.accountKey(s.ctx, agent, *key, k)
	}
	if c.Output == "json" {
		err = s.printJSON(struct {
			KeySource string          `json:"keySource"`
			KeyID     string          `json:"keyId"`
			Steps     []preflightStep `json:"steps"`
		}{key.Source, id, p.steps})
	} else {
		var rows [][]string
		for _, step := range p.steps {
			took := ""
			if step.Millis > 0 {
				took = fmt.Sprintf("%d ms", step.Millis)
			}
			rows = append(rows, []string{step.Step, step.Result, took, step.Detail})
		}
		s.printTable(nil, rows)
	}
	if err != nil {
		return err
	}
	return p.err
}

// key is the key to ask: the account's, or the one that the flags name.
func (c *accountCheckCmd) key(a *account.Account, k *account.AEKRecord) (*hsm.Config, error) {
	var current *hsm.Config
	if k != nil {
		current = &k.Key
	}
	key, err := c.config(current)
	switch {
	case err != nil:
		return nil, err
	case key == nil && current == nil:
		return nil, api.Errorf(api.CodeNotFound, "the account has no key yet")
	case key == nil:
		key = current
	case key.Source == hsm.SourcePlatform:
		return nil, &usageError{message: "there is nothing to check before a platform-managed key is used"}
	}
	identity, err := c.identity(a.Identity)
	if err != nil {
		return nil, err
	}
	if identity == nil && key == current {
		return current, nil
	}
	if identity == nil {
		identity = &a.Identity
	}
	return askedAs(key, *identity), nil
}

// network goes to the vault without an identity.
func (p *preflight) network(ctx context.Context, a hsm.AzureConfig) {
	done := azure.Probe(ctx, a)
	for i, step := range []string{azure.StepDNS, azure.StepTCP, azure.StepTLS} {
		switch {
		case i >= len(done):
			p.passed(step, "", 0)
		case done[i].Err != nil:
			p.failed(step, done[i].Err, done[i].Took)
		default:
			p.passed(step, done[i].Detail, done[i].Took)
		}
	}
}

// keySteps are what an examination does, by the operation that a failure of it
// names, in order.
var keySteps = map[string][]string{
	hsm.SourcePlatform: {"open", "encrypt", "decrypt"},
	hsm.SourcePKCS11:   {"module", "token", "login", "get", "encrypt", "decrypt"},
	hsm.SourceKeyVault: {"token", "get", "encrypt", "decrypt"},
}

// firstSteps have to do with what comes before any operation of a key's, and
// fails with the operation open.
var firstSteps = map[string]string{hsm.SourcePlatform: "open", hsm.SourcePKCS11: "module", hsm.SourceKeyVault: "token"}

// key examines the key as account update does, and returns its id.
func (p *preflight) key(ctx context.Context, agent *keyagent.Client, a *account.Account, key hsm.Config) string {
	steps := keySteps[key.Source]
	if p.err != nil {
		for _, step := range steps {
			p.passed(step, "", 0)
		}
		return ""
	}
	var call keyagent.Call
	info, err := agent.Observed(func(c keyagent.Call) { call = c }).Examine(ctx, key)
	if err == nil {
		err = a.Usable(info, time.Now()) // which also looks at where the vault is
	}
	failedAt := ""
	if err != nil {
		failedAt = steps[len(steps)-1] // of an error that names no step: nothing before it is known to be wrong
		var keyErr *hsm.Error
		if errors.As(err, &keyErr) {
			if keyErr.Op == "open" {
				failedAt = firstSteps[key.Source]
			} else if slices.Contains(steps, keyErr.Op) {
				failedAt = keyErr.Op
			}
		}
	}
	p.reached = slices.Contains([]string{"", "get", "encrypt", "decrypt"}, failedAt)
	for _, step := range steps {
		took, detail := operation(call, step)
		switch {
		case step == failedAt:
			p.failed(step, err, cmp.Or(took, call.Took))
		case step == "get" || step == "open":
			p.passed(step, describeKey(info), took)
		case step == "token" && key.Azure != nil:
			p.passed(step, describeWho(info), took)
		default:
			p.passed(step, detail, took)
		}
	}
	return cmp.Or(info.KeyID, configured(key))
}

// operation says how long a step took, and what the vault calls it if it has
// another name for it.
func operation(call keyagent.Call, step string) (took time.Duration, detail string) {
	called := map[string]string{"wrapKey": "encrypt", "unwrapKey": "decrypt"}
	for _, o := range call.Operations {
		if o.Op == step {
			return o.Took, ""
		}
		if called[o.Op] == step {
			return o.Took, "as " + o.Op
		}
	}
	return 0, ""
}

// sameKey reports whether two configurations name one key, however it is
// reached.
func sameKey(a, b hsm.Config) bool {
	switch {
	case a.Azure != nil && b.Azure != nil:
		return a.Azure.VaultURI == b.Azure.VaultURI && a.Azure.KeyName == b.Azure.KeyName
	case a.PKCS11 != nil && b.PKCS11 != nil:
		return a.PKCS11.URI == b.PKCS11.URI
	}
	return a.Source == b.Source
}

// configured is a key as its configuration names it.
func configured(key hsm.Config) string {
	switch {
	case key.Azure != nil:
		return strings.TrimSuffix(key.Azure.VaultURI+"keys/"+key.Azure.KeyName+"/"+key.Azure.KeyVersion, "/")
	case key.PKCS11 != nil:
		return key.PKCS11.URI
	}
	return ""
}

// accountKey decrypts the account's own key, for which the version that
// encrypted it is needed. It is what volumes depend on: a key that could not be
// chosen any more, because it has expired, still does it.
func (p *preflight) accountKey(ctx context.Context, agent *keyagent.Client, key hsm.Config, k *account.AEKRecord) {
	const step = "account key"
	if !p.reached {
		p.passed(step, "", 0)
		return
	}
	first := p.err
	p.err = nil
	began := time.Now()
	_, err := agent.Check(ctx, key, k.ID, keyagent.AEK{Wrapped: k.Wrapped, Commitment: k.Commitment})
	if err != nil {
		_, hint := classify(err)
		p.failed(step, &hinted{err, "the account's volumes need exactly " + k.Wrapped.KeyID + ". " + hint}, time.Since(began))
	} else {
		p.passed(step, "decrypted with "+k.Wrapped.KeyID, time.Since(began))
	}
	p.err = cmp.Or(first, p.err)
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

// describeWho is whom a vault sees.
func describeWho(info hsm.Info) string {
	var words []string
	for _, w := range []struct{ name, value string }{
		{"object id", info.PrincipalID}, {"client id", info.ClientID}, {"tenant", info.TenantID}, {"credential expires", showTime(info.CredentialExpires)},
	} {
		if w.value != "" {
			words = append(words, w.name+" "+w.value)
		}
	}
	return strings.Join(words, ", ")
}
