package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // OAEP does not need its hash to be free of collisions
	"crypto/sha256"
	"fmt"
	"hash"

	p11 "github.com/miekg/pkcs11"

	"cmkfs/hsm"
)

// Options are the agent's part of opening a key.
type Options struct {
	// StateDir is where refused PINs are remembered; "" = in memory only.
	StateDir string
}

// algorithm is one form of RSA-OAEP; its hash is that of the mask too.
type algorithm struct {
	name      string
	newHash   func() hash.Hash
	mechanism uint
	mask      uint
}

// algorithms in the order in which they are tried for a new ciphertext.
var algorithms = []algorithm{
	{"RSA-OAEP-256", sha256.New, p11.CKM_SHA256, p11.CKG_MGF1_SHA256},
	{"RSA-OAEP", sha1.New, p11.CKM_SHA_1, p11.CKG_MGF1_SHA1},
}

func (a algorithm) oaep() []*p11.Mechanism {
	return []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_PKCS_OAEP,
		p11.NewOAEPParams(a.mechanism, a.mask, p11.CKZ_DATA_SPECIFIED, nil))}
}

type key struct {
	uri      URI
	stateDir string
	closed   bool
}

// Open returns the key that the URI names. It only reads the URI: the token is
// visited by each operation. Errors are *hsm.Error.
func Open(_ context.Context, cfg hsm.PKCS11Config, opt Options) (hsm.Key, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, err
	}
	if u.Object == "" && len(u.ID) == 0 {
		return nil, refuse("open", u.KeyID(), hsm.KindMisconfigured, "BadURI", hsm.BadTokenURI, "it needs object or id, the name of the key", nil)
	}
	return &key{uri: u, stateDir: opt.StateDir}, nil
}

// visit logs in to a freshly loaded token, finds a key and calls f with it.
func (k *key) visit(ctx context.Context, op string, u URI, f func(*session, object) error) error {
	if k.closed {
		return &hsm.Error{Op: op, KeyID: k.uri.KeyID(), Kind: hsm.KindMisconfigured, Reason: "Closed", Message: "The key has been closed"}
	}
	return loggedIn(ctx, k.uri, k.stateDir, func(s *session) error {
		o, err := s.find(op, u)
		if err != nil {
			return err
		}
		return f(s, o)
	})
}

// loggedIn calls f with a session of a token that was loaded for it.
func loggedIn(ctx context.Context, u URI, stateDir string, f func(*session) error) error {
	return onThread(func() error {
		s, err := connect(ctx, u)
		if err != nil {
			return err
		}
		defer s.close()
		if err := s.login(stateDir); err != nil {
			return err
		}
		return f(s)
	})
}

func (k *key) Info(ctx context.Context) (hsm.Info, error) {
	var info hsm.Info
	err := k.visit(ctx, "get", k.uri, func(s *session, o object) error {
		info = o.info()
		info.Token = s.tokenID()
		return nil
	})
	return info, err
}

func (k *key) Wrap(ctx context.Context, plaintext []byte) (hsm.Wrapped, error) {
	var w hsm.Wrapped
	err := k.visit(ctx, "encrypt", k.uri, func(s *session, o object) error {
		if err := o.usable("encrypt"); err != nil {
			return err
		}
		if !o.encrypt {
			return refuse("encrypt", o.uri.KeyID(), hsm.KindDenied, "KeyOperationForbidden", hsm.TokenKeyForbidden, "its public key may not be used to encrypt or wrap", nil)
		}
		var err error
		w, err = s.wrap(o, plaintext)
		return err
	})
	return w, err
}

// otherHash are the answers of modules that do not know a hash of OAEP, or use
// SHA-1 whatever they are told; some of them say the same to other troubles,
// which the next algorithm then meets as well.
var otherHash = []p11.Error{
	p11.CKR_ARGUMENTS_BAD, p11.CKR_MECHANISM_PARAM_INVALID, p11.CKR_MECHANISM_INVALID, p11.CKR_FUNCTION_NOT_SUPPORTED,
	p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_WRAPPED_KEY_INVALID, p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED,
}

// wrap tries the algorithms until the token decrypts what was encrypted.
func (s *session) wrap(o object, plaintext []byte) (hsm.Wrapped, error) {
	fail := func(k hsm.Kind, reason, message string, err error) (hsm.Wrapped, error) {
		return hsm.Wrapped{}, &hsm.Error{Op: "encrypt", KeyID: o.uri.KeyID(), Kind: k, Reason: reason, Message: message, Err: err}
	}
	var err error
	for _, a := range algorithms {
		var sealed, back []byte
		sealed, err = rsa.EncryptOAEP(a.newHash(), rand.Reader, &o.public, plaintext, nil)
		if err != nil {
			return fail(hsm.KindMisconfigured, "TooLong", "The key cannot be wrapped", err)
		}
		back, err = s.decrypt(o, a, sealed)
		if err == nil {
			same := bytes.Equal(back, plaintext)
			clear(back)
			if !same {
				return fail(hsm.KindMisconfigured, "WrongKeyMaterial", "The PKCS#11 token decrypted to something else than was encrypted", nil)
			}
			return hsm.Wrapped{KeyID: o.uri.KeyID(), Algorithm: a.name, Ciphertext: sealed}, nil
		}
		if !is(err, otherHash...) {
			break
		}
	}
	return hsm.Wrapped{}, classify("encrypt", o.uri.KeyID(), err)
}

func (k *key) Unwrap(ctx context.Context, w hsm.Wrapped) ([]byte, error) {
	fail := func(reason, message string, err error) error {
		return &hsm.Error{Op: "decrypt", KeyID: w.KeyID, Kind: hsm.KindMisconfigured, Reason: reason, Message: message, Err: err}
	}
	var a algorithm
	for _, c := range algorithms {
		if c.name == w.Algorithm {
			a = c
		}
	}
	if a.name == "" {
		return nil, fail("Algorithm", "The wrapped key was made by an unknown algorithm", nil)
	}
	// The stored name says which key; where it is, the configuration says.
	u, err := parseURI(w.KeyID + "?module-path=" + escape(k.uri.ModulePath))
	if err != nil || (u.Object == "" && len(u.ID) == 0) {
		return nil, fail("BadURI", "The wrapped key does not name its PKCS#11 key", err)
	}
	var plaintext []byte
	err = k.visit(ctx, "decrypt", u, func(s *session, o object) error {
		if err := o.usable("decrypt"); err != nil {
			return err
		}
		if len(w.Ciphertext) != o.public.Size() {
			return fail("BadCiphertext", msgBadCiphertext, nil)
		}
		var err error
		if plaintext, err = s.decrypt(o, a, w.Ciphertext); err == nil {
			return nil
		}
		if is(err, p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_DATA_INVALID, p11.CKR_DATA_LEN_RANGE) && s.works(o, a) {
			return fail("BadCiphertext", msgBadCiphertext, err)
		}
		return classify("decrypt", o.uri.KeyID(), err)
	})
	if err != nil {
		return nil, err
	}
	return plaintext, nil
}

// works tells a token that fails from a ciphertext that is bad, for modules
// that say CKR_GENERAL_ERROR to both: it decrypts something known to be good.
func (s *session) works(o object, a algorithm) bool {
	probe := make([]byte, 32)
	rand.Read(probe)
	sealed, err := rsa.EncryptOAEP(a.newHash(), rand.Reader, &o.public, probe, nil)
	if err != nil {
		return false
	}
	back, err := s.decrypt(o, a, sealed)
	return err == nil && bytes.Equal(back, probe)
}

// decrypt has the token decrypt with C_Decrypt or, if the key may only unwrap,
// with C_UnwrapKey into a session object whose value is read. The errors are
// the module's.
func (s *session) decrypt(o object, a algorithm, sealed []byte) ([]byte, error) {
	if o.decrypt {
		if err := s.ctx.DecryptInit(s.handle, a.oaep(), o.handle); err != nil {
			return nil, err
		}
		if o.always && s.pin != nil {
			if err := s.authenticate(p11.CKU_CONTEXT_SPECIFIC); err != nil {
				return nil, err
			}
		}
		return s.ctx.Decrypt(s.handle, sealed)
	}
	template := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_GENERIC_SECRET),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_SENSITIVE, false),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
	}
	h, err := s.ctx.UnwrapKey(s.handle, a.oaep(), o.handle, sealed, template)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.ctx.DestroyObject(s.handle, h) }()
	v, err := s.ctx.GetAttributeValue(s.handle, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)})
	if err != nil {
		return nil, err
	}
	if len(v) != 1 {
		return nil, fmt.Errorf("the token gave no value: %w", p11.Error(p11.CKR_FUNCTION_FAILED))
	}
	return v[0].Value, nil
}

// Close ends the use of the key; nothing stays open between operations.
func (k *key) Close() error {
	k.closed = true
	return nil
}

// List returns the private keys of the token that the URI names, whether they
// are usable or not.
func List(ctx context.Context, cfg hsm.PKCS11Config, opt Options) ([]hsm.Info, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, err
	}
	var keys []hsm.Info
	err = loggedIn(ctx, u, opt.StateDir, func(s *session) error {
		handles, err := s.search([]*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)}, maxListed)
		if err != nil {
			return classify("list", u.KeyID(), err)
		}
		for _, h := range handles {
			o, err := s.inspect(h)
			if err != nil {
				return classify("list", u.KeyID(), err)
			}
			keys = append(keys, o.info())
		}
		return nil
	})
	return keys, err
}

const maxListed = 1000 // keys; more on one token are not listed
