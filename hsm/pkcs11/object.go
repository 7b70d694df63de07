package pkcs11

import (
	"crypto/rsa"
	"fmt"
	"math/big"
	"strings"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkfs/hsm"
)

// object is a private key on the token, as far as it may be read.
type object struct {
	handle          p11.ObjectHandle
	uri             URI // names exactly this key on this token
	rsa             bool
	public          rsa.PublicKey // of an RSA key; N is nil if the token does not tell
	decrypt, unwrap bool
	always          bool // wants the PIN before each use (CKA_ALWAYS_AUTHENTICATE)
	encrypt         bool // false only if the token has the public key and forbids it
	start, end      time.Time
}

// find returns the one private key that the URI names.
func (s *session) find(op string, u URI) (object, error) {
	fail := func(k hsm.Kind, reason string, c hsm.Condition, detail string) (object, error) {
		return object{}, refuse(op, u.KeyID(), k, reason, c, detail, nil)
	}
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)}
	if u.Object != "" {
		template = append(template, p11.NewAttribute(p11.CKA_LABEL, u.Object))
	}
	if len(u.ID) > 0 {
		template = append(template, p11.NewAttribute(p11.CKA_ID, u.ID))
	}
	handles, err := s.search(template, 2)
	switch {
	case err != nil:
		return object{}, classify(op, u.KeyID(), err)
	case len(handles) == 0:
		return fail(hsm.KindDenied, "KeyNotFound", hsm.TokenKeyNotFound, "")
	case len(handles) > 1:
		return fail(hsm.KindMisconfigured, "AmbiguousKey", hsm.BadTokenURI, "more than one key of the token matches it: add object= or id=")
	}
	o, err := s.inspect(handles[0])
	if err != nil {
		return object{}, classify(op, u.KeyID(), err)
	}
	return o, nil
}

// search returns at most limit objects.
func (s *session) search(template []*p11.Attribute, limit int) ([]p11.ObjectHandle, error) {
	if err := s.ctx.FindObjectsInit(s.handle, template); err != nil {
		return nil, err
	}
	var all []p11.ObjectHandle
	for len(all) < limit {
		handles, _, err := s.ctx.FindObjects(s.handle, limit-len(all))
		if err != nil {
			return nil, err
		}
		if len(handles) == 0 {
			break
		}
		all = append(all, handles...)
	}
	return all, s.ctx.FindObjectsFinal(s.handle)
}

// inspect reads a private key's attributes, and its public key's if the token
// has that too.
func (s *session) inspect(h p11.ObjectHandle) (object, error) {
	o := object{handle: h, encrypt: true}
	o.uri = URI{Token: trim(s.token.Label), Object: string(s.attribute(h, p11.CKA_LABEL)), ID: s.attribute(h, p11.CKA_ID)}
	if s.uri.Serial != "" || o.uri.Token == "" {
		o.uri.Serial = trim(s.token.SerialNumber)
	}
	// The one attribute without which nothing is known; its error is the token's.
	kind, err := s.ctx.GetAttributeValue(s.handle, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_KEY_TYPE, nil)})
	if err != nil {
		return o, err
	}
	o.rsa = len(kind) == 1 && number(kind[0].Value) == p11.CKK_RSA
	if !o.rsa {
		return o, nil
	}
	o.decrypt, o.unwrap = s.flag(h, p11.CKA_DECRYPT), s.flag(h, p11.CKA_UNWRAP)
	o.always = s.flag(h, p11.CKA_ALWAYS_AUTHENTICATE)
	o.start, o.end = s.date(h, p11.CKA_START_DATE), s.date(h, p11.CKA_END_DATE)
	o.setPublic(s.attribute(h, p11.CKA_MODULUS), s.attribute(h, p11.CKA_PUBLIC_EXPONENT))

	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY)}
	if len(o.uri.ID) > 0 {
		template = append(template, p11.NewAttribute(p11.CKA_ID, o.uri.ID))
	} else {
		template = append(template, p11.NewAttribute(p11.CKA_LABEL, o.uri.Object))
	}
	publics, err := s.search(template, 1)
	if err != nil {
		return o, err
	}
	for _, p := range publics {
		o.encrypt = s.flag(p, p11.CKA_ENCRYPT) || s.flag(p, p11.CKA_WRAP)
		if o.public.N == nil || o.public.E == 0 {
			o.setPublic(s.attribute(p, p11.CKA_MODULUS), s.attribute(p, p11.CKA_PUBLIC_EXPONENT))
		}
	}
	return o, nil
}

func (o *object) setPublic(modulus, exponent []byte) {
	if len(modulus) == 0 || len(exponent) == 0 || len(exponent) > 4 {
		return
	}
	o.public = rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(new(big.Int).SetBytes(exponent).Int64())}
}

// usable refuses a key that can never serve.
func (o object) usable(op string) error {
	fail := func(k hsm.Kind, reason string, c hsm.Condition, detail string) error {
		return refuse(op, o.uri.KeyID(), k, reason, c, detail, nil)
	}
	switch {
	case !o.rsa:
		return fail(hsm.KindMisconfigured, "NotRSA", hsm.TokenKeyNotRSA, "")
	case o.public.N == nil:
		return fail(hsm.KindMisconfigured, "NoPublicKey", hsm.TokenKeyNotRSA, "the token does not tell its modulus")
	case o.public.N.BitLen() < hsm.MinBits:
		return fail(hsm.KindMisconfigured, "KeyTooShort", hsm.TokenKeyNotRSA, fmt.Sprintf("it has fewer than %d bits", hsm.MinBits))
	case !o.decrypt && !o.unwrap:
		return fail(hsm.KindDenied, "KeyOperationForbidden", hsm.TokenKeyForbidden, "")
	}
	return nil
}

func (o object) info() hsm.Info {
	i := hsm.Info{KeyID: o.uri.KeyID(), Enabled: o.decrypt || o.unwrap, NotBefore: o.start, Expires: o.end}
	if o.rsa {
		i.Type = hsm.TypeRSAHSM
		if o.public.N != nil {
			i.Bits = o.public.N.BitLen()
		}
	}
	return i
}

// attribute reads one attribute; tokens leave out what they do not know, and
// nil stands for that.
func (s *session) attribute(h p11.ObjectHandle, kind uint) []byte {
	a, err := s.ctx.GetAttributeValue(s.handle, h, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	if err != nil || len(a) != 1 {
		return nil
	}
	return a[0].Value
}

func (s *session) flag(h p11.ObjectHandle, kind uint) bool {
	v := s.attribute(h, kind)
	return len(v) == 1 && v[0] != 0
}

// date reads a CK_DATE, "YYYYMMDD"; the end date's day counts in full, and so
// does the start date's.
func (s *session) date(h p11.ObjectHandle, kind uint) time.Time {
	t, err := time.Parse("20060102", string(s.attribute(h, kind)))
	if err != nil {
		return time.Time{}
	}
	if kind == p11.CKA_END_DATE {
		t = t.AddDate(0, 0, 1)
	}
	return t
}

// number reads a CK_ULONG in the machine's order, which is little-endian on
// every machine this runs on.
func number(b []byte) uint {
	var n uint
	for i := len(b) - 1; i >= 0; i-- {
		n = n<<8 | uint(b[i])
	}
	return n
}

// trim takes off the blanks that fixed-length strings of PKCS#11 end in.
func trim(s string) string { return strings.TrimRight(s, " \x00") }
