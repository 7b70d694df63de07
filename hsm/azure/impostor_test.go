package azure_test

import (
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

func impostorConfig(t *testing.T, h http.HandlerFunc) hsm.AzureConfig {
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
	s.Config.ErrorLog = nil
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
