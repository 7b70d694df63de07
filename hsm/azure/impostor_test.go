package azure_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure"
)

// impostor serves as demo.vault.azure.net, with a certificate that is accepted.
func impostor(t *testing.T, h http.HandlerFunc) hsm.Key {
	t.Helper()
	k, err := azure.Open(t.Context(), impostorConfig(t, h))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// impostorConfig is of a vault that h serves.
func impostorConfig(t *testing.T, h http.HandlerFunc) hsm.AzureConfig {
	t.Helper()
	return impostorBy(t, h, false)
}

func impostorBy(t *testing.T, h http.HandlerFunc, http2 bool) hsm.AzureConfig {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"demo.vault.azure.net"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog, s.EnableHTTP2 = nil, http2
	s.StartTLS()
	t.Cleanup(s.Close)
	return hsm.AzureConfig{
		VaultURI: "https://demo.vault.azure.net/", KeyName: "cmk", CAFile: ca,
		PrivateEndpoint: s.Listener.Addr().String(),
	}
}

// A list goes on where the page before says. That it is another host is an
// error: nobody is connected to there, and nobody gets the token.
func TestImpostor_ListGoesOnElsewhere(t *testing.T) {
	var elsewhere atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			elsewhere.Add(1)
			c.Close()
		}
	}()
	for _, link := range []string{
		"https://" + l.Addr().String() + "/keys?api-version=7.6",
		"https://other.vault.azure.net/keys?api-version=7.6", "https://demo.vault.azure.net:8443/keys",
	} {
		cfg := impostorConfig(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", goodChallenge)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"value":[],"nextLink":%q}`, link)
		})
		_, err := azure.List(t.Context(), cfg)
		wantError(t, err, hsm.KindMisconfigured, "Elsewhere")
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d connections to another host", n)
	}
}

const goodChallenge = `Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000", resource="https://vault.azure.net"`

// What answers instead of a vault must not get a token, and its answer must be
// an error of the right kind whatever it is.
func TestImpostor(t *testing.T) {
	challenge := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", s)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	page := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			fmt.Fprint(w, "<html>proxy</html>")
		}
	}
	for name, tc := range map[string]struct {
		h      http.HandlerFunc
		kind   hsm.Kind
		reason string
	}{
		"challenge without tenant":    {challenge(`Bearer authorization="https://login.microsoftonline.com", resource="https://vault.azure.net"`), hsm.KindMisconfigured, "Challenge"},
		"challenge without anything":  {challenge(``), hsm.KindMisconfigured, "Challenge"},
		"challenge of another scheme": {challenge(`Basic realm="x"`), hsm.KindMisconfigured, "Challenge"},
		"challenge that is short":     {challenge(`Bearer authorization="x", resource="https://vault.azure.net"`), hsm.KindMisconfigured, "Challenge"},
		"challenge without resource":  {challenge(`Bearer authorization="https://login.microsoftonline.com/t"`), hsm.KindMisconfigured, "Challenge"},
		"challenge for another":       {challenge(`Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.example.com"`), hsm.KindMisconfigured, "Challenge"},
		"forbidden by a proxy":        {page(403), hsm.KindNetworkDenied, "HTTP403"},
		"not found by a proxy":        {page(404), hsm.KindUnreachable, "HTTP404"},
		"bad gateway":                 {page(502), hsm.KindUnreachable, "HTTP502"},
		"success without sense":       {page(200), hsm.KindMisconfigured, "Protocol"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		}, hsm.KindUnreachable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var withToken atomic.Bool
			k := impostor(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" {
					withToken.Store(true)
				}
				tc.h(w, r)
			})
			_, err := k.Unwrap(t.Context(), hsm.Wrapped{KeyID: "https://demo.vault.azure.net/keys/cmk/" + strings.Repeat("0", 32), Algorithm: azure.Algorithm, Ciphertext: []byte("x")})
			var e *hsm.Error
			if !errors.As(err, &e) || e.Kind != tc.kind || (tc.reason != "" && e.Reason != tc.reason) {
				t.Errorf("got %v, want %s/%s", err, tc.kind, tc.reason)
			}
			if withToken.Load() {
				t.Error("the token was sent")
			}
		})
	}
}

// Answers that only look right, with the challenge and everything.
func TestImpostor_WrongAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		kind   hsm.Kind
	}{
		"no key id":            {200, `{"value":"AAAA"}`, hsm.KindMisconfigured},
		"key of another vault": {200, `{"value":"AAAA","kid":"https://other.vault.azure.net/keys/cmk/00000000000000000000000000000000"}`, hsm.KindMisconfigured},
		"no version":           {200, `{"value":"AAAA","kid":"https://demo.vault.azure.net/keys/cmk"}`, hsm.KindMisconfigured},
		"no value":             {200, `{"kid":"https://demo.vault.azure.net/keys/cmk/00000000000000000000000000000000"}`, hsm.KindMisconfigured},
		"null":                 {200, `null`, hsm.KindMisconfigured},
		"unknown inner code":   {403, `{"error":{"code":"Forbidden","message":"m","innererror":{"code":"SomethingNew"}}}`, hsm.KindDenied},
		"no inner code":        {403, `{"error":{"code":"Forbidden","message":"m"}}`, hsm.KindDenied},
		"token not accepted":   {401, `{"error":{"code":"Unauthorized","message":"AKV10032: Invalid issuer."}}`, hsm.KindMisconfigured},
	} {
		t.Run(name, func(t *testing.T) {
			k := impostor(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "" || tc.status == 401 {
					w.Header().Set("WWW-Authenticate", goodChallenge)
					w.WriteHeader(http.StatusUnauthorized)
				} else {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(tc.status)
				}
				fmt.Fprint(w, tc.body)
			})
			_, err := k.Wrap(t.Context(), []byte("x"))
			if err == nil || hsm.KindOf(err) != tc.kind {
				t.Errorf("got %v, want %s", err, tc.kind)
			}
			if err != nil && strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error contains a token: %v", err)
			}
		})
	}
}

// Answers that begin like a vault's and go wrong: each is an error of its own,
// read no further than it has to be, and in bounded time.
func TestImpostor_Bodies(t *testing.T) {
	hijack := func(f func(c net.Conn)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer c.Close()
			f(c)
		}
	}
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s) }
	}
	sent := new(atomic.Int64)
	for name, tc := range map[string]struct {
		h      http.HandlerFunc
		kind   hsm.Kind
		reason string
	}{
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			page := bytes.Repeat([]byte(" "), 1<<16)
			for sent.Load() < 1<<28 {
				n, err := w.Write(page)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}, hsm.KindMisconfigured, "TooLong"},
		"truncated": {hijack(func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"value\":")
		}), hsm.KindMisconfigured, "Truncated"},
		"slow": {func(w http.ResponseWriter, r *http.Request) {
			for range 60 {
				fmt.Fprint(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(200 * time.Millisecond):
				case <-r.Context().Done():
					return
				}
			}
		}, hsm.KindMisconfigured, "TooSlow"},
		"no HTTP":            {hijack(func(c net.Conn) { fmt.Fprint(c, "220 mail.example.com ESMTP\r\n") }), hsm.KindMisconfigured, "Protocol"},
		"header without end": {hijack(func(c net.Conn) { fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX: %s\r\n\r\n", strings.Repeat("x", 1<<20)) }), hsm.KindMisconfigured, "Protocol"},
		"closed at once":     {hijack(func(net.Conn) {}), hsm.KindUnreachable, "Connection"},
		"text":               {text("hello"), hsm.KindMisconfigured, "Protocol"},
		"nothing":            {text(""), hsm.KindMisconfigured, "Protocol"},
		"list":               {text("[]"), hsm.KindMisconfigured, "Protocol"},
		"empty object":       {text("{}"), hsm.KindMisconfigured, "Protocol"},
		"wrong types":        {text(`{"key":{"kid":7,"kty":[]},"attributes":"yes"}`), hsm.KindMisconfigured, "Protocol"},
		"bad modulus":        {text(`{"key":{"kid":"https://demo.vault.azure.net/keys/cmk/1","kty":"RSA","n":"%%%"}}`), hsm.KindMisconfigured, "Protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			_, err := impostor(t, tc.h).Info(t.Context())
			var e *hsm.Error
			if !errors.As(err, &e) || e.Kind != tc.kind || e.Reason != tc.reason || e.Condition != hsm.NoConnection {
				t.Errorf("got %v, want %s/%s", err, tc.kind, tc.reason)
			}
			if d := time.Since(begin); d > 20*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
	if n := sent.Load(); n > 64<<20 { // what sockets and TLS hold, and a busy machine
		t.Errorf("%d MiB were taken of an answer without end", n>>20)
	}
}

// A challenge whose authorization has no tenant made the SDK panic, in
// whichever form it comes.
func TestImpostor_ChallengeWithoutTenant(t *testing.T) {
	for _, authorization := range []string{"", "https:", "https:/", "https://", "https://login.microsoftonline.com", "https://login.microsoftonline.com/", "https://login.microsoftonline.com//", "login", "/", "//", "http://login.microsoftonline.com/t", "\x00", "https://[::1"} {
		for _, format := range []string{`Bearer authorization="%s", resource="https://vault.azure.net"`, `Bearer authorization=%s resource=https://vault.azure.net`, `Bearer resource="https://vault.azure.net", authorization="%s"`} {
			k := impostor(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(format, authorization))
				w.WriteHeader(http.StatusUnauthorized)
			})
			for range 2 {
				_, err := k.Info(t.Context())
				if hsm.KindOf(err) != hsm.KindMisconfigured || strings.Contains(err.Error(), "panic") {
					t.Errorf("%q: %v", authorization, err)
				}
			}
		}
	}
}
