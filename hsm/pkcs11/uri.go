package pkcs11

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"cmkfs/hsm"
)

// URI is a parsed RFC 7512 URI. Empty fields match anything.
type URI struct {
	Token        string
	Serial       string
	Manufacturer string
	Model        string
	Object       string // CKA_LABEL
	ID           []byte // CKA_ID
	SlotID       *uint

	ModulePath string // absolute path of the shared library
	PINFile    string // absolute path; "" = the token needs no login
}

// ParseURI reads a URI of the form
//
//	pkcs11:token=T;object=K?module-path=/path/module.so&pin-source=file:/path/pin
//
// Known are the path attributes token, serial, manufacturer, model, object, id,
// slot-id and type=private, and the query attributes module-path and
// pin-source. Anything else is refused, pin-value with the reason that a
// configuration holds no secrets. The error is an *hsm.Error.
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err != nil {
		return URI{}, refuse("open", withoutPIN(s), hsm.KindMisconfigured, "BadURI", hsm.BadTokenURI, err.Error(), nil)
	}
	return u, nil
}

func parseURI(s string) (URI, error) {
	var u URI
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return u, sentence("it begins with \"pkcs11:\"")
	}
	path, query, _ := strings.Cut(rest, "?")
	seen := map[string]bool{}
	for _, part := range split(path, ";") {
		name, value, err := attribute(part, seen)
		if err != nil {
			return u, err
		}
		switch name {
		case "token":
			u.Token = value
		case "serial":
			u.Serial = value
		case "manufacturer":
			u.Manufacturer = value
		case "model":
			u.Model = value
		case "object":
			u.Object = value
		case "id":
			u.ID = []byte(value)
		case "slot-id":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return u, sentence("its slot-id is not a number")
			}
			slot := uint(n)
			u.SlotID = &slot
		case "type":
			if value != "private" {
				return u, sentence("it must name a private key, not type=%s", value)
			}
		default:
			return u, sentence("it has an attribute that is not supported: %s", name)
		}
	}
	for _, part := range split(query, "&") {
		name, value, err := attribute(part, seen)
		if err != nil {
			return u, err
		}
		switch name {
		case "module-path":
			if !filepath.IsAbs(value) {
				return u, sentence("its module-path must be an absolute path")
			}
			u.ModulePath = value
		case "pin-source":
			value = strings.TrimPrefix(strings.TrimPrefix(value, "file:"), "//") // file:///path has an empty authority
			if !filepath.IsAbs(value) {
				return u, sentence("its pin-source must be file:/absolute/path")
			}
			u.PINFile = value
		case "pin-value":
			return u, sentence("it contains a PIN: write the PIN to a file of mode 0600 and use pin-source=file:/path instead of pin-value")
		default:
			return u, sentence("it has an attribute that is not supported: %s", name)
		}
	}
	if u.ModulePath == "" {
		return u, sentence("it needs module-path, the path of the token's PKCS#11 library")
	}
	if u.Token == "" && u.Serial == "" && u.SlotID == nil {
		return u, sentence("it needs token, serial or slot-id")
	}
	return u, nil
}

func split(s, sep string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, sep)
}

func attribute(part string, seen map[string]bool) (name, value string, err error) {
	name, value, ok := strings.Cut(part, "=")
	if !ok || name == "" {
		return "", "", sentence("it has a part without a name and a value")
	}
	if seen[name] {
		return "", "", sentence("it has %s more than once", name)
	}
	seen[name] = true
	value, err = url.PathUnescape(value)
	if err != nil || value == "" {
		return "", "", sentence("the value of %s is empty or not percent-encoded correctly", name)
	}
	return name, value, nil
}

// withoutPIN cuts off the query, which alone may hold a secret.
func withoutPIN(s string) string {
	path, _, _ := strings.Cut(s, "?")
	return path
}

// KeyID is the URI of a key without the query: how the key is called in
// records, errors and reports.
func (u URI) KeyID() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+escape(value))
		}
	}
	add("token", u.Token)
	add("serial", u.Serial)
	add("manufacturer", u.Manufacturer)
	add("model", u.Model)
	if u.SlotID != nil {
		add("slot-id", strconv.FormatUint(uint64(*u.SlotID), 10))
	}
	add("object", u.Object)
	if len(u.ID) > 0 {
		var b strings.Builder
		for _, c := range u.ID {
			fmt.Fprintf(&b, "%%%02X", c)
		}
		parts = append(parts, "id="+b.String())
	}
	return "pkcs11:" + strings.Join(parts, ";")
}

// escape percent-encodes all but RFC 3986's unreserved characters.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// sentence is an error whose text says what is wrong with the URI.
func sentence(format string, args ...any) error { return fmt.Errorf(format, args...) }
