package emulator

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // RSA-OAEP is defined with it
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// query is what a request asks for.
type query struct {
	op           string // as in Operations, or healthstatus; "" = nothing known
	what         string // for list: keys, versions, deletedkeys; for get and others: keys, deletedkeys
	key, version string
	skip, max    int
}

// parseRequest knows every path. The one with a slash at the end is what clients
// send for "the newest version".
func parseRequest(r *http.Request) query {
	p := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	q := query{what: p[0], max: 25}
	if n, err := strconv.Atoi(r.URL.Query().Get("maxresults")); err == nil && n > 0 && n < q.max {
		q.max = n
	}
	q.skip, _ = strconv.Atoi(r.URL.Query().Get("$skiptoken"))
	q.skip = max(q.skip, 0)
	if len(p) > 1 {
		q.key = p[1]
	}
	last := ""
	if len(p) > 2 {
		last = p[len(p)-1]
	}
	route := func(pattern string) bool { return r.Method+" "+shape(p) == pattern }
	switch {
	case route("GET healthstatus"):
		q.op = "healthstatus"
	case route("GET keys"), route("GET deletedkeys"):
		q.op = "list"
	case route("GET keys/k/v") && last == "versions":
		q.op, q.what = "list", "versions"
	case route("GET keys/k/v") && last == "rotationpolicy":
		q.op = "getrotationpolicy"
	case route("PUT keys/k/v") && last == "rotationpolicy":
		q.op = "setrotationpolicy"
	case route("GET keys/k"), route("GET deletedkeys/k"):
		q.op = "get"
	case route("GET keys/k/v"):
		q.op, q.version = "get", last
	case route("PUT keys/k"):
		q.op = "import"
	case route("PATCH keys/k"):
		q.op = "update"
	case route("PATCH keys/k/v"):
		q.op, q.version = "update", last
	case route("DELETE keys/k"):
		q.op = "delete"
	case route("DELETE deletedkeys/k"):
		q.op = "purge"
	case route("POST deletedkeys/k/v") && last == "recover":
		q.op = "recover"
	case route("POST keys/k/v") && (last == "create" || last == "rotate"):
		q.op = last
	case route("POST keys/k/v"), route("POST keys/k/v/o"):
		q.op = map[string]string{"encrypt": "encrypt", "decrypt": "decrypt", "wrapkey": "wrapKey", "unwrapkey": "unwrapKey"}[last]
		if len(p) == 4 {
			q.version = p[2]
		}
	}
	return q
}

// shape is a path with its names left out: keys/k/v/o.
func shape(p []string) string {
	if len(p) == 0 || len(p) > 4 {
		return "?"
	}
	return strings.Join(append([]string{p[0]}, []string{"k", "v", "o"}[:len(p)-1]...), "/")
}

// keyRequest has the fields of all bodies.
type keyRequest struct {
	Type       string            `json:"kty"`
	Size       int               `json:"key_size"`
	Ops        []string          `json:"key_ops"`
	Tags       map[string]string `json:"tags"`
	Attributes *attributes       `json:"attributes"`
	Key        *jsonWebKey       `json:"key"`
	Algorithm  string            `json:"alg"`
	Value      string            `json:"value"`
	raw        json.RawMessage
}

// attributes are the ones a client may set; nil = leave as it is.
type attributes struct {
	Enabled   *bool  `json:"enabled"`
	NotBefore *int64 `json:"nbf"`
	Expires   *int64 `json:"exp"`
}

func (a *attributes) set(v *Version) {
	if a == nil {
		return
	}
	if a.Enabled != nil {
		v.Enabled = *a.Enabled
	}
	if a.NotBefore != nil {
		v.NotBefore = time.Unix(*a.NotBefore, 0).UTC()
	}
	if a.Expires != nil {
		v.Expires = time.Unix(*a.Expires, 0).UTC()
	}
}

type jsonWebKey struct {
	Type string   `json:"kty"`
	Ops  []string `json:"key_ops"`
	N    string   `json:"n"`
	E    string   `json:"e"`
	D    string   `json:"d"`
	P    string   `json:"p"`
	Q    string   `json:"q"`
}

func readBody(w http.ResponseWriter, r *http.Request) (keyRequest, error) {
	var k keyRequest
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil || len(b) == 0 {
		return k, err
	}
	k.raw = b
	return k, json.Unmarshal(b, &k)
}

// answer is one request that may be served.
type answer struct {
	w     http.ResponseWriter
	vault *Vault
	q     query
	body  keyRequest
	now   time.Time
}

// serve answers and reports whether something changed.
func (a *answer) serve() (changed bool) {
	switch a.q.op {
	case "list":
		a.list()
		return false
	case "create", "import":
		return a.create()
	case "purge", "recover":
		return a.undelete()
	}
	if a.q.what == "deletedkeys" {
		k := a.vault.Deleted[a.q.key]
		if k == nil {
			a.notFound()
			return false
		}
		writeJSON(a.w, http.StatusOK, a.bundle(k, k.version("")))
		return false
	}
	k := a.vault.Keys[a.q.key]
	if k == nil || k.version(a.q.version) == nil {
		a.notFound()
		return false
	}
	v := k.version(a.q.version)
	switch a.q.op {
	case "get":
		writeJSON(a.w, http.StatusOK, a.bundle(k, v))
		return false
	case "update":
		a.body.Attributes.set(v)
		if a.body.Ops != nil {
			v.Ops = a.body.Ops
		}
		if a.body.Tags != nil {
			v.Tags = a.body.Tags
		}
		v.Updated = a.now
		writeJSON(a.w, http.StatusOK, a.bundle(k, v))
	case "rotate":
		next, err := rotated(k, a.now)
		if err != nil {
			fail(a.w, http.StatusBadRequest, "BadParameter", "", err.Error())
			return false
		}
		writeJSON(a.w, http.StatusOK, a.bundle(k, next))
	case "delete":
		a.vault.remove(k, a.now)
		writeJSON(a.w, http.StatusOK, a.bundle(k, k.version("")))
	case "getrotationpolicy", "setrotationpolicy":
		if a.q.op == "setrotationpolicy" {
			k.Policy = a.body.raw
		}
		policy := any(k.Policy)
		if len(k.Policy) == 0 {
			policy = map[string]any{"id": a.vault.URI() + "keys/" + k.Name + "/rotationpolicy", "lifetimeActions": []any{}, "attributes": map[string]any{}}
		}
		writeJSON(a.w, http.StatusOK, policy)
	default:
		a.crypt(k, v)
		return false
	}
	return true
}

func (a *answer) notFound() {
	fail(a.w, http.StatusNotFound, "KeyNotFound", "", fmt.Sprintf(
		"A key with (name/id) %s was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182",
		strings.TrimSuffix(a.q.key+"/"+a.q.version, "/")))
}

// create adds a key or a version.
func (a *answer) create() bool {
	bad := func(err error) bool {
		fail(a.w, http.StatusBadRequest, "BadParameter", "", err.Error())
		return false
	}
	if a.vault.Deleted[a.q.key] != nil {
		fail(a.w, http.StatusConflict, "Conflict", "ObjectIsDeletedButRecoverable",
			"Key "+a.q.key+" is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the key can only be recovered or purged.")
		return false
	}
	var v *Version
	var err error
	if a.q.op == "import" {
		v, err = a.imported()
	} else {
		v, err = newVersion(a.body.Type, a.body.Size, a.body.Ops, a.now)
	}
	if err != nil {
		return bad(err)
	}
	a.body.Attributes.set(v)
	v.Tags = a.body.Tags
	k := a.vault.Keys[a.q.key]
	if k == nil {
		k = &Key{Name: a.q.key}
		a.vault.Keys[k.Name] = k
	}
	k.Versions = append(k.Versions, v)
	writeJSON(a.w, http.StatusOK, a.bundle(k, v))
	return true
}

func (a *answer) imported() (*Version, error) {
	j := a.body.Key
	if j == nil || (j.Type != "RSA" && j.Type != "RSA-HSM") {
		return nil, errors.New("only RSA keys can be imported")
	}
	var n [5]*big.Int
	for i, s := range []string{j.N, j.E, j.D, j.P, j.Q} {
		b, err := b64.DecodeString(s)
		if err != nil || len(b) == 0 {
			return nil, errors.New("the key is incomplete")
		}
		n[i] = new(big.Int).SetBytes(b)
	}
	if !n[1].IsInt64() {
		return nil, errors.New("the public exponent is too large")
	}
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n[0], E: int(n[1].Int64())}, D: n[2], Primes: []*big.Int{n[3], n[4]}}
	if err := k.Validate(); err != nil {
		return nil, err
	}
	v := &Version{ID: newVersionID(), Type: j.Type, Ops: j.Ops, Enabled: true, Created: a.now, Updated: a.now}
	if v.Ops == nil {
		v.Ops = []string{"encrypt", "decrypt", "wrapKey", "unwrapKey"}
	}
	return v, v.setPrivate(k)
}

// rotated adds a version like the newest one, with other material.
func rotated(k *Key, now time.Time) (*Version, error) {
	old := k.version("")
	bits := 0
	if p, err := old.private(); err == nil && p != nil {
		bits = p.N.BitLen()
	}
	v, err := newVersion(old.Type, bits, old.Ops, now)
	if err != nil {
		return nil, err
	}
	v.Tags = old.Tags
	k.Versions = append(k.Versions, v)
	return v, nil
}

func (v *Vault) remove(k *Key, now time.Time) {
	if v.Deleted == nil {
		v.Deleted = map[string]*Key{}
	}
	delete(v.Keys, k.Name)
	k.DeletedAt = now
	v.Deleted[k.Name] = k
}

// undelete recovers a deleted key or purges it.
func (a *answer) undelete() bool {
	k := a.vault.Deleted[a.q.key]
	switch {
	case k == nil:
		a.notFound()
		return false
	case a.q.op == "purge" && !strings.Contains(a.vault.RecoveryLevel, "Purgeable"):
		fail(a.w, http.StatusForbidden, "Forbidden", "OperationNotAllowed", "Operation \"purge\" is not allowed because purge protection is enabled for this vault.")
		return false
	case a.q.op == "purge":
		delete(a.vault.Deleted, k.Name)
		a.w.WriteHeader(http.StatusNoContent)
		return true
	}
	a.vault.restore(k)
	writeJSON(a.w, http.StatusOK, a.bundle(k, k.version("")))
	return true
}

func (v *Vault) restore(k *Key) {
	delete(v.Deleted, k.Name)
	k.DeletedAt = time.Time{}
	v.Keys[k.Name] = k
}

// crypt is the four operations with a key.
func (a *answer) crypt(k *Key, v *Version) {
	forbid := func(inner, format string) {
		fail(a.w, http.StatusForbidden, "Forbidden", inner, fmt.Sprintf(format, a.q.op))
	}
	encrypting := a.q.op == "encrypt" || a.q.op == "wrapKey"
	switch {
	case !v.Enabled:
		forbid("KeyDisabled", "Operation %s is not allowed on a disabled key.")
		return
	case !slices.Contains(v.Ops, a.q.op):
		forbid("KeyOperationForbidden", "Operation %s is not permitted on this key.")
		return
	case encrypting && !v.NotBefore.IsZero() && a.now.Before(v.NotBefore):
		forbid("KeyNotYetValid", "Operation %s is not allowed on a key that is not yet valid.")
		return
	case encrypting && !v.Expires.IsZero() && !a.now.Before(v.Expires):
		forbid("KeyExpired", "Operation %s is not allowed on an expired key.")
		return
	}
	private, err := v.private()
	if err != nil || private == nil {
		fail(a.w, http.StatusBadRequest, "BadParameter", "", "The key type does not support the operation.")
		return
	}
	in, err := b64.DecodeString(a.body.Value)
	if err != nil || len(in) == 0 {
		fail(a.w, http.StatusBadRequest, "BadParameter", "", "Property value is missing or is not base64url")
		return
	}
	out, err := crypt(private, a.body.Algorithm, in, encrypting)
	if err != nil {
		fail(a.w, http.StatusBadRequest, "BadParameter", "", "The parameter is incorrect.")
		return
	}
	writeJSON(a.w, http.StatusOK, map[string]any{"kid": a.kid(k, v), "value": b64.EncodeToString(out)})
}

func crypt(k *rsa.PrivateKey, algorithm string, in []byte, encrypting bool) ([]byte, error) {
	switch algorithm + " " + map[bool]string{true: "encrypt", false: "decrypt"}[encrypting] {
	case "RSA-OAEP-256 encrypt":
		return rsa.EncryptOAEP(sha256.New(), rand.Reader, &k.PublicKey, in, nil)
	case "RSA-OAEP-256 decrypt":
		return rsa.DecryptOAEP(sha256.New(), nil, k, in, nil)
	case "RSA-OAEP encrypt":
		return rsa.EncryptOAEP(sha1.New(), rand.Reader, &k.PublicKey, in, nil)
	case "RSA-OAEP decrypt":
		return rsa.DecryptOAEP(sha1.New(), nil, k, in, nil)
	case "RSA1_5 encrypt":
		//lint:ignore SA1019 it is part of the interface
		return rsa.EncryptPKCS1v15(rand.Reader, &k.PublicKey, in)
	case "RSA1_5 decrypt":
		//lint:ignore SA1019 it is part of the interface
		return rsa.DecryptPKCS1v15(nil, k, in)
	}
	return nil, fmt.Errorf("algorithm %q is unknown", algorithm)
}
