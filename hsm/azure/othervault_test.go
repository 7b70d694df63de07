package azure_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure"
)

// otherVault is a Key Vault written without ours: get, encrypt and decrypt of
// one key, with everything that the service's documentation leaves open done in
// another way. It believes any token.
type otherVault struct {
	key        *rsa.PrivateKey
	kid        string
	challenge  []string       // WWW-Authenticate headers
	attributes map[string]any // of the key; nil = left out
	kty        string
	extra      bool // fields nobody knows
	denied     string
}

const otherVersion = "0123456789abcdef0123456789abcdef"

func (v *otherVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, m map[string]any) {
		if v.extra {
			m["futureField"] = map[string]any{"a": []int{1}}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(m)
	}
	if r.Header.Get("Authorization") == "" {
		w.Header()["Www-Authenticate"] = v.challenge
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if v.denied != "" {
		status := http.StatusForbidden
		if strings.Contains(v.denied, "Unauthorized") {
			status = http.StatusUnauthorized
		}
		w.WriteHeader(status)
		fmt.Fprint(w, v.denied)
		return
	}
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if r.Method == http.MethodGet {
		key := map[string]any{"kid": v.kid, "kty": v.kty, "key_ops": []string{"encrypt", "decrypt"}, "e": "AQAB",
			"n": base64.RawURLEncoding.EncodeToString(append([]byte{0}, v.key.N.Bytes()...))}
		m := map[string]any{"key": key}
		if v.extra {
			key["ext"] = true
		}
		if v.attributes != nil {
			m["attributes"] = v.attributes
		}
		answer(200, m)
		return
	}
	var p struct{ Alg, Value string }
	_ = json.NewDecoder(r.Body).Decode(&p)
	in, err := base64.RawURLEncoding.DecodeString(p.Value)
	var out []byte
	switch {
	case err != nil || p.Alg != "RSA-OAEP-256":
		err = fmt.Errorf("bad request")
	case path[len(path)-1] == "encrypt":
		out, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &v.key.PublicKey, in, nil)
	case path[len(path)-1] == "decrypt":
		out, err = rsa.DecryptOAEP(sha256.New(), nil, v.key, in, nil)
	}
	if err != nil {
		answer(400, map[string]any{"error": map[string]any{"code": "BadParameter", "message": err.Error()}})
		return
	}
	answer(200, map[string]any{"kid": v.kid, "value": base64.RawURLEncoding.EncodeToString(out)})
}

// TestOtherVault: what Key Vault's documentation leaves open, another
// implementation may do otherwise, and is understood all the same.
func TestOtherVault(t *testing.T) {
	start(t) // tokens come from the emulator's endpoint
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const tenant = "https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000"
	kid := "https://demo.vault.azure.net/keys/cmk/" + otherVersion
	enabled := map[string]any{"enabled": true, "recoveryLevel": "Recoverable"}
	for name, change := range map[string]func(v *otherVault){
		"plain":             func(*otherVault) {},
		"scope":             challenged(`Bearer authorization="` + tenant + `", scope="https://vault.azure.net/.default"`),
		"lower case":        challenged(`bearer Authorization="` + tenant + `", Resource="https://vault.azure.net"`),
		"no blanks":         challenged(`Bearer authorization="` + tenant + `",resource="https://vault.azure.net"`),
		"no commas":         challenged(`Bearer authorization="` + tenant + `" resource="https://vault.azure.net"`),
		"no quotes":         challenged(`Bearer authorization=` + tenant + `, resource=https://vault.azure.net`),
		"many blanks":       challenged(`Bearer   authorization = "` + tenant + `" ,  resource = "https://vault.azure.net"`),
		"other order":       challenged(`Bearer resource="https://vault.azure.net", authorization="` + tenant + `"`),
		"more parameters":   challenged(`Bearer realm="a, b", error="no token", error_description="no token, sorry", authorization="` + tenant + `", resource="https://vault.azure.net", x=1`),
		"authorization_uri": challenged(`Bearer authorization_uri="` + tenant + `", resource="https://vault.azure.net"`),
		"slashes":           challenged(`Bearer authorization="` + tenant + `/", resource="https://vault.azure.net/"`),
		"v2 endpoint":       challenged(`Bearer authorization="` + tenant + `/oauth2/v2.0/authorize", resource="https://vault.azure.net"`),
		"PoP first":         challenged(`PoP authorization="https://pop.example/x", resource="https://pop.example", Bearer authorization="` + tenant + `", resource="https://vault.azure.net"`),
		"two headers":       challenged(`Negotiate`, `Bearer authorization="`+tenant+`", resource="https://vault.azure.net"`),
		"extra fields":      func(v *otherVault) { v.extra = true },
		"no attributes":     func(v *otherVault) { v.attributes = nil },
		"few attributes":    func(v *otherVault) { v.attributes = map[string]any{"created": 1700000000} },
		"null attributes": func(v *otherVault) {
			v.attributes = map[string]any{"enabled": true, "exp": nil, "nbf": nil, "recoveryLevel": nil}
		},
		"RSA-HSM":         func(v *otherVault) { v.kty = "RSA-HSM" },
		"id with port":    func(v *otherVault) { v.kid = strings.Replace(kid, ".net/", ".net:8443/", 1) },
		"id in capitals":  func(v *otherVault) { v.kid = "https://Demo.Vault.Azure.NET/keys/cmk/" + strings.ToUpper(otherVersion) },
		"id with a slash": func(v *otherVault) { v.kid = kid + "/" },
	} {
		t.Run(name, func(t *testing.T) {
			v := &otherVault{key: key, kid: kid, attributes: enabled, kty: "RSA",
				challenge: []string{`Bearer authorization="` + tenant + `", resource="https://vault.azure.net"`}}
			change(v)
			k := impostor(t, v.ServeHTTP)
			info, err := k.Info(t.Context())
			if err != nil || info.Usable(time.Now()) != nil || info.KeyID != kid || info.Bits != 2048 {
				t.Fatalf("Info = %+v, %v; usable: %v", info, err, info.Usable(time.Now()))
			}
			w, err := k.Wrap(t.Context(), []byte("secret"))
			if err != nil || w.KeyID != kid {
				t.Fatalf("Wrap = %+v, %v", w, err)
			}
			if got, err := k.Unwrap(t.Context(), w); err != nil || string(got) != "secret" {
				t.Fatalf("Unwrap = %q, %v", got, err)
			}
		})
	}
}

// A vault that speaks HTTP/2 is understood as well.
func TestOtherVault_HTTP2(t *testing.T) {
	start(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	v := &otherVault{key: key, kid: "https://demo.vault.azure.net/keys/cmk/" + otherVersion, kty: "RSA", challenge: []string{goodChallenge}}
	cfg := impostorBy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("asked by %s", r.Proto)
		}
		v.ServeHTTP(w, r)
	}, true)
	k, err := azure.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	w, err := k.Wrap(t.Context(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Unwrap(t.Context(), w); err != nil || string(got) != "secret" {
		t.Errorf("Unwrap = %q, %v", got, err)
	}
}

func challenged(headers ...string) func(*otherVault) {
	return func(v *otherVault) { v.challenge = headers }
}

// Other implementations put the code where ours has the envelope's, leave the
// inner one out, or refuse a token without another challenge.
func TestOtherVault_Refuses(t *testing.T) {
	start(t)
	for name, tc := range map[string]struct {
		body      string
		kind      hsm.Kind
		condition hsm.Condition
	}{
		"outer code":      {`{"error":{"code":"KeyDisabled","message":"off"}}`, hsm.KindDenied, hsm.KeyNotEnabled},
		"inner code":      {`{"error":{"code":"Forbidden","message":"off","innererror":{"code":"KeyDisabled"}}}`, hsm.KindDenied, hsm.KeyNotEnabled},
		"no inner code":   {`{"error":{"code":"Forbidden","message":"no"}}`, hsm.KindDenied, hsm.Unusable},
		"null inner code": {`{"error":{"code":"Forbidden","message":"no","innererror":null}}`, hsm.KindDenied, hsm.Unusable},
		"firewall":        {`{"error":{"code":"ForbiddenByFirewall","message":"no"}}`, hsm.KindNetworkDenied, hsm.NoConnection},
		"token refused":   {`{"error":{"code":"Unauthorized","message":"AKV10032"}}`, hsm.KindMisconfigured, hsm.Unusable},
	} {
		t.Run(name, func(t *testing.T) {
			v := &otherVault{denied: tc.body, challenge: []string{goodChallenge}}
			_, err := impostor(t, v.ServeHTTP).Info(t.Context())
			var e *hsm.Error
			if !errors.As(err, &e) || e.Kind != tc.kind || e.Condition != tc.condition {
				t.Errorf("got %v, want %s/%s", err, tc.kind, string(tc.condition))
			}
		})
	}
}
