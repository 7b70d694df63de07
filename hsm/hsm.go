// Package hsm is the customer's key behind one interface. The implementations
// are in hsm/azure (Key Vault, Managed HSM), hsm/pkcs11 and hsm/platform;
// hsm/hsmtest has the conformance suite every one of them passes.
//
// Only the key agent process opens keys: SDKs and vendors' C code may hang or
// crash there, and nowhere else.
package hsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The key sources, named as the account's encryption.keySource is.
const (
	SourcePlatform = "Microsoft.NetApp"
	SourceKeyVault = "Microsoft.KeyVault"
	SourcePKCS11   = "PKCS11"
)

// Key is one customer-managed key. Methods honour the context's deadline as
// far as the provider's code can; a hung C module cannot, so the key agent's
// client kills the agent when a deadline has passed. Not for concurrent use.
type Key interface {
	// Info reads the key's public attributes.
	Info(ctx context.Context) (Info, error)
	// Wrap encrypts at most 190 bytes under the newest (or configured) version.
	Wrap(ctx context.Context, plaintext []byte) (Wrapped, error)
	// Unwrap decrypts with the key version and algorithm stored in w. It must
	// really reach the token or vault: no answer may come from a cache.
	Unwrap(ctx context.Context, w Wrapped) ([]byte, error)
	// Close ends sessions. The Key must not be used afterwards.
	Close() error
}

// Wrapped is a wrapped key as it is stored.
type Wrapped struct {
	KeyID      string `json:"keyId"`     // with its version: the exact key that unwraps
	Algorithm  string `json:"algorithm"` // e.g. RSA-OAEP-256, RSA-OAEP
	Ciphertext []byte `json:"ciphertext"`
}

// Info is what account show and the preflight report about a key.
type Info struct {
	KeyID         string    `json:"keyId"`
	Type          string    `json:"type"` // RSA, RSA-HSM, platform
	Bits          int       `json:"bits"`
	Enabled       bool      `json:"enabled"`
	NotBefore     time.Time `json:"notBefore,omitzero"`
	Expires       time.Time `json:"expires,omitzero"`
	RecoveryLevel string    `json:"recoveryLevel,omitempty"`
	Region        string    `json:"region,omitempty"`
	Newer         *Info     `json:"newer,omitempty"`       // of a check: the newest version, if it is not the one in force
	Token         string    `json:"token,omitempty"`       // PKCS#11: which token, as it says itself
	PrincipalID   string    `json:"principalId,omitempty"` // the object id of who asked, as the vault sees it
	ClientID      string    `json:"clientId,omitempty"`    // of who asked, as far as its token says
	TenantID      string    `json:"tenantId,omitempty"`    // likewise
	// CredentialExpires is when who asked can no longer prove to be itself: the
	// end of a client certificate. Zero for credentials that renew themselves.
	CredentialExpires time.Time `json:"credentialExpires,omitzero"`
	// Voucher is the identity that vouches for who asked, of a federated
	// client only.
	Voucher Principal `json:"voucher,omitzero"`
	// Operations are what the key itself permits (a vault's key_ops); empty if
	// that is not told.
	Operations []string `json:"operations,omitempty"`
	// Problem is why the attributes of a listed key could not be read; they are
	// empty then.
	Problem string `json:"problem,omitempty"`
	// Answer is how it was learned: status and request id, for errors.
	Answer string `json:"-"`
}

// Principal is an identity as its tokens describe it, as far as they do.
type Principal struct {
	ObjectID string `json:"principalId,omitempty"`
	ClientID string `json:"clientId,omitempty"`
	TenantID string `json:"tenantId,omitempty"`
}

// Kind classes a failure by what it says about the customer's will.
type Kind string

const (
	// KindDenied: the vault or token answered and refuses: disabled, deleted,
	// permission removed, wrong PIN. Suspends once confirmed.
	KindDenied Kind = "denied"
	// KindNetworkDenied: a firewall or a disabled public endpoint answered.
	KindNetworkDenied Kind = "network-denied"
	// KindThrottled: too many requests; RetryAfter says when to come back.
	KindThrottled Kind = "throttled"
	// KindUnreachable: no answer: DNS, TCP, TLS, time-out, 5xx, token absent.
	KindUnreachable Kind = "unreachable"
	// KindMisconfigured: the configuration cannot work: wrong URI, not RSA,
	// garbage or wrong key material returned.
	KindMisconfigured Kind = "misconfigured"
)

// Error is the only error type providers return.
type Error struct {
	Op         string // get, encrypt, decrypt, open, token, login, module …
	KeyID      string // as configured, never a secret
	Kind       Kind
	Condition  Condition     // "" = none of those users know by a sentence
	Reason     string        // one word for what was seen: KeyDisabled, CKR_PIN_INCORRECT, …
	Message    string        // one sentence for a person; it begins with the condition's
	Hint       string        // what to do besides the condition's resolution; may be ""
	RetryAfter time.Duration // 0 = not said
	Err        error         // the cause; never contains PIN, token or key bytes
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s (%s: %s", e.Sentence(), e.Op, e.Kind)
	if e.Reason != "" {
		s += ", " + e.Reason
	}
	s += ")"
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Sentence is the message alone.
func (e *Error) Sentence() string {
	return cmp.Or(e.Message, e.Condition.Error(), "The key operation failed")
}

// Cause is what was seen, on one line: the operation, the key, the reason, and
// what the vault or token answered.
func (e *Error) Cause() string {
	words := []string{strings.TrimSpace(e.Op + " " + e.KeyID)}
	if e.Reason != "" {
		words = append(words, e.Reason)
	}
	if e.Err != nil {
		words = append(words, e.Err.Error())
	}
	return strings.Join(words, ": ")
}

// Is makes errors.Is(err, KeyExpired) work.
func (e *Error) Is(target error) bool {
	c, ok := target.(Condition)
	return ok && c == e.Condition
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf classes any error; one that is no *Error counts as unreachable.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindUnreachable
}

// Config says which key to use. Exactly the field of Source is set. It holds
// no secret: a PIN is named by its source.
type Config struct {
	Source   string          `json:"source"`
	Azure    *AzureConfig    `json:"azure,omitempty"`
	PKCS11   *PKCS11Config   `json:"pkcs11,omitempty"`
	Platform *PlatformConfig `json:"platform,omitempty"`
}

// AzureConfig names a key in Key Vault or Managed HSM and the identity used.
type AzureConfig struct {
	VaultURI             string `json:"vaultUri"` // https://NAME.vault.azure.net/
	KeyName              string `json:"keyName"`
	KeyVersion           string `json:"keyVersion,omitempty"`           // "" = newest
	IdentityType         string `json:"identityType,omitempty"`         // SystemAssigned (default), UserAssigned
	UserAssignedIdentity string `json:"userAssignedIdentity,omitempty"` // client, object or resource id
	FederatedClientID    string `json:"federatedClientId,omitempty"`
	KeyVaultResourceID   string `json:"keyVaultResourceId,omitempty"`
	Permissions          string `json:"permissions,omitempty"`     // encrypt-decrypt (default), wrap-unwrap
	PrivateEndpoint      string `json:"privateEndpoint,omitempty"` // IP[:PORT] the vault's name is reached at
	CAFile               string `json:"caFile,omitempty"`          // extra PEM roots
}

// PKCS11Config names a key on a token (RFC 7512).
type PKCS11Config struct {
	URI string `json:"uri"` // pkcs11:token=T;object=K?module-path=…&pin-source=file:/…
}

// PlatformConfig names the local sealed key file.
type PlatformConfig struct {
	KeyFile string `json:"keyFile"`
}
