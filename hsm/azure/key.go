package azure

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cmkfs/hsm"
)

// The permission pairs of hsm.AzureConfig.Permissions.
const (
	EncryptDecrypt = "encrypt-decrypt"
	WrapUnwrap     = "wrap-unwrap"
)

// Algorithm is the only one used.
const Algorithm = string(azkeys.EncryptionAlgorithmRSAOAEP256)

const (
	callTimeout  = 15 * time.Second // of an operation, if its context has no earlier deadline
	tryTimeout   = 6 * time.Second  // of one request
	maxPlaintext = 190              // bytes: RSA-2048 with OAEP and SHA-256
	maxListed    = 500              // keys of a vault; more are not listed
)

// retries bounds the SDK's own repetitions: who asks for the key asks again
// soon, and wants to know about throttling at once.
func retries() policy.RetryOptions {
	return policy.RetryOptions{
		MaxRetries: 1, TryTimeout: tryTimeout, RetryDelay: 300 * time.Millisecond, MaxRetryDelay: 2 * time.Second,
		StatusCodes: []int{http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout},
	}
}

type key struct {
	cfg     hsm.AzureConfig
	id      string // as configured
	host    string // of the vault
	managed bool   // a Managed HSM
	client  *azkeys.Client
	http    *http.Client
	cred    *credential
	wrap    bool // wrapkey and unwrapkey instead of encrypt and decrypt
	closed  bool
}

// Open returns a key of a vault. Nothing is sent yet. Errors are *hsm.Error.
func Open(_ context.Context, cfg hsm.AzureConfig) (hsm.Key, error) {
	if err := hsm.CheckKeyName(cfg.KeyName, cfg.KeyVersion); err != nil {
		return nil, err
	}
	return newKey(cfg)
}

// newKey is Open without a key's name.
func newKey(cfg hsm.AzureConfig) (*key, error) {
	vault, err := hsm.ParseVaultURI(cfg.VaultURI)
	if err != nil {
		return nil, err
	}
	cfg.VaultURI = vault
	k := &key{cfg: cfg, id: vault + "keys/" + cfg.KeyName}
	if cfg.KeyVersion != "" {
		k.id += "/" + cfg.KeyVersion
	}
	fail := func(reason, message string, err error) (*key, error) {
		return nil, &hsm.Error{Op: "open", KeyID: k.id, Kind: hsm.KindMisconfigured, Reason: reason, Message: message, Err: err}
	}
	switch cfg.Permissions {
	case "", EncryptDecrypt:
	case WrapUnwrap:
		k.wrap = true
	default:
		return fail("Permissions", "The key vault permissions are encrypt-decrypt or wrap-unwrap", nil)
	}
	address, err := endpoint(cfg.PrivateEndpoint)
	if err != nil {
		return fail("PrivateEndpoint", "The private endpoint is not valid", err)
	}
	pool, err := roots(cfg.CAFile)
	if err != nil {
		return fail("CAFile", msgBadCA, err)
	}
	u, err := url.Parse(vault)
	if err != nil {
		return fail("BadURI", "Key Vault URI is invalid", err)
	}
	k.host = u.Hostname()
	k.managed = strings.Contains(k.host, ".managedhsm.")
	k.cred, err = newCredential(cfg, u.Hostname(), pool)
	if err != nil {
		return fail("Identity", msgBadIdentity, err)
	}
	k.http = newHTTPClient(answers{newTransport(u.Hostname(), address, pool), k.host})
	k.client, err = azkeys.NewClient(vault, k.cred, &azkeys.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: k.http, Retry: retries(), Telemetry: policy.TelemetryOptions{Disabled: true}},
	})
	if err != nil {
		return fail("BadURI", "Key Vault URI is invalid", err)
	}
	return k, nil
}

// call runs one operation of the SDK with our deadline and turns its error into
// ours. A panic in the SDK is an answer it cannot read.
func (k *key) call(ctx context.Context, op, id string, f func(context.Context) error) (err error) {
	if k.closed {
		return &hsm.Error{Op: op, KeyID: id, Kind: hsm.KindMisconfigured, Reason: "Closed", Message: "The key has been closed"}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = &hsm.Error{Op: op, KeyID: id, Kind: hsm.KindMisconfigured, Condition: hsm.NoConnection, Reason: "Protocol",
				Message: hsm.NoConnection.Because("what answers there is no Key Vault"), Err: fmt.Errorf("panic in the SDK: %v", p)}
		}
	}()
	if err := f(ctx); err != nil {
		return k.classify(op, id, err)
	}
	return nil
}

func (k *key) Info(ctx context.Context) (hsm.Info, error) {
	return k.info(ctx, k.cfg.KeyName, k.cfg.KeyVersion)
}

func (k *key) info(ctx context.Context, name, version string) (hsm.Info, error) {
	var info hsm.Info
	err := k.call(ctx, "get", k.id, func(ctx context.Context) error {
		var raw *http.Response
		r, err := k.client.GetKey(policy.WithCaptureResponse(ctx, &raw), name, version, nil)
		if err != nil {
			return err
		}
		info = infoOf(r.Attributes)
		if raw != nil {
			info.Region = raw.Header.Get("x-ms-keyvault-region")
			k.cred.describe(&info, tokenOf(raw.Request))
			info.Answer = fmt.Sprintf("HTTP %d, request %s", raw.StatusCode, raw.Header.Get("x-ms-request-id"))
		}
		j := r.Key
		if j == nil {
			return &answerError{"Protocol", "what answers there is no Key Vault", errors.New("the answer has no key")}
		}
		info.KeyID = k.id
		if j.KID != nil && *j.KID != "" {
			info.KeyID = k.canonical(string(*j.KID))
		}
		if j.Kty != nil {
			info.Type = string(*j.Kty)
		}
		info.Bits = new(big.Int).SetBytes(j.N).BitLen()
		for _, op := range j.KeyOps {
			if op != nil {
				info.Operations = append(info.Operations, string(*op))
			}
		}
		return nil
	})
	return info, err
}

// infoOf reads the attributes, all of which may be missing.
func infoOf(a *azkeys.KeyAttributes) hsm.Info {
	i := hsm.Info{Enabled: true} // what is not said is not refused: using the key shows it
	if a == nil {
		return i
	}
	i.Enabled = a.Enabled == nil || *a.Enabled
	if a.NotBefore != nil {
		i.NotBefore = *a.NotBefore
	}
	if a.Expires != nil {
		i.Expires = *a.Expires
	}
	if a.RecoveryLevel != nil {
		i.RecoveryLevel = *a.RecoveryLevel
	}
	return i
}

func (k *key) Wrap(ctx context.Context, plaintext []byte) (hsm.Wrapped, error) {
	if len(plaintext) > maxPlaintext {
		return hsm.Wrapped{}, &hsm.Error{Op: "encrypt", KeyID: k.id, Kind: hsm.KindMisconfigured, Reason: "TooLong", Message: "More than 190 bytes cannot be wrapped"}
	}
	var out azkeys.KeyOperationResult
	err := k.call(ctx, "encrypt", k.id, func(ctx context.Context) error {
		p := parameters(plaintext)
		if k.wrap {
			r, err := k.client.WrapKey(ctx, k.cfg.KeyName, k.cfg.KeyVersion, p, nil)
			out = r.KeyOperationResult
			return err
		}
		r, err := k.client.Encrypt(ctx, k.cfg.KeyName, k.cfg.KeyVersion, p, nil)
		out = r.KeyOperationResult
		return err
	})
	if err != nil {
		return hsm.Wrapped{}, k.explain(ctx, err)
	}
	w := hsm.Wrapped{Algorithm: Algorithm, Ciphertext: out.Result}
	if out.KID != nil {
		w.KeyID = k.canonical(string(*out.KID))
	}
	if _, version, err := k.stored(w.KeyID); err != nil || version == "" || len(w.Ciphertext) == 0 {
		return hsm.Wrapped{}, &hsm.Error{Op: "encrypt", KeyID: k.id, Kind: hsm.KindMisconfigured, Reason: "Protocol", Message: "The answer does not say which version of the key was used", Err: err}
	}
	return w, nil
}

// explain finds out why encrypting was denied where the vault gives no inner
// code of its own: an expired key, one that is not yet active.
func (k *key) explain(ctx context.Context, err error) error {
	if hsm.KindOf(err) != hsm.KindDenied {
		return err
	}
	e := err.(*hsm.Error) // call makes no other
	info, ierr := k.Info(ctx)
	if ierr != nil {
		return err
	}
	if u, ok := info.Usable(time.Now()).(*hsm.Error); ok && u.Kind == hsm.KindDenied {
		e.Condition, e.Reason, e.Message, e.Hint = u.Condition, u.Reason, u.Message, u.Hint
	}
	return e
}

func (k *key) Unwrap(ctx context.Context, w hsm.Wrapped) ([]byte, error) {
	fail := func(reason, message string, err error) ([]byte, error) {
		return nil, &hsm.Error{Op: "decrypt", KeyID: w.KeyID, Kind: hsm.KindMisconfigured, Reason: reason, Message: message, Err: err}
	}
	if w.Algorithm != Algorithm {
		return fail("Algorithm", "The wrapped key was made by an unknown algorithm", nil)
	}
	name, version, err := k.stored(w.KeyID)
	if err != nil {
		return fail("BadURI", "The wrapped key belongs to another Key Vault", err)
	}
	var out azkeys.KeyOperationResult
	err = k.call(ctx, "decrypt", w.KeyID, func(ctx context.Context) error {
		p := parameters(w.Ciphertext)
		if k.wrap {
			r, err := k.client.UnwrapKey(ctx, name, version, p, nil)
			out = r.KeyOperationResult
			return err
		}
		r, err := k.client.Decrypt(ctx, name, version, p, nil)
		out = r.KeyOperationResult
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(out.Result) == 0 {
		return fail("Protocol", "The Key Vault gave an empty answer", nil)
	}
	return out.Result, nil
}

// stored takes a wrapped key's id apart, which must be of this vault.
func (k *key) stored(id string) (name, version string, err error) {
	vault, name, version, err := hsm.ParseKeyURI(id)
	if err == nil && vault != k.cfg.VaultURI {
		err = fmt.Errorf("%s is not in %s", id, k.cfg.VaultURI)
	}
	return name, version, err
}

// canonical writes an id that the vault answered with as we write ids: some
// vaults put their port into it, or capitals. What is no id of this vault stays.
func (k *key) canonical(id string) string {
	u, err := url.Parse(id)
	if err != nil || !strings.EqualFold(u.Hostname(), k.host) {
		return id
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if len(parts) == 3 {
		parts[2] = strings.ToLower(parts[2])
	}
	return k.cfg.VaultURI + strings.Join(parts, "/")
}

func parameters(value []byte) azkeys.KeyOperationParameters {
	return azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: value}
}

// Close drops idle connections.
func (k *key) Close() error {
	k.closed = true
	k.http.CloseIdleConnections()
	return nil
}

// List returns the newest version of each key in the vault. One that may be
// listed but not read says why.
func List(ctx context.Context, cfg hsm.AzureConfig) ([]hsm.Info, error) {
	k, err := newKey(cfg)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	var listed []*azkeys.KeyProperties
	err = k.call(ctx, "list", cfg.VaultURI, func(ctx context.Context) error {
		pager := k.client.NewListKeyPropertiesPager(nil)
		for pager.More() && len(listed) < maxListed {
			page, err := pager.NextPage(ctx)
			if err != nil {
				return err
			}
			listed = append(listed, page.Value...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var keys []hsm.Info
	for _, p := range listed {
		if p == nil || p.KID == nil {
			continue
		}
		info, err := k.info(ctx, p.KID.Name(), "")
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			info = infoOf(p.Attributes)
			info.KeyID, info.Problem = k.canonical(string(*p.KID)), err.Error()
			var e *hsm.Error
			if errors.As(err, &e) {
				info.Problem = e.Sentence()
			}
		}
		keys = append(keys, info)
	}
	return keys, nil
}
