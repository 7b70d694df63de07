package emulator

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// exchange is whom tokens are for with which an identity vouches for an
// application.
const exchange = "api://AzureADTokenExchange"

// isAuthority tells requests for Entra ID, which is played at localhost, from
// those for a vault.
func isAuthority(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// serveAuthority plays as much of Entra ID as a client with a certificate or a
// federated identity needs: the discovery document and the token endpoint. A
// client is known by its id alone, unless it was given a certificate or token.
func (e *Emulator) serveAuthority(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code, message string) {
		writeJSON(w, status, map[string]string{"error": code, "error_description": message})
	}
	tenant, path, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	base := "https://" + r.Host + "/" + tenant
	switch {
	case r.Method == http.MethodGet && path == "v2.0/.well-known/openid-configuration":
		writeJSON(w, http.StatusOK, map[string]string{
			"issuer": base + "/v2.0", "authorization_endpoint": base + "/oauth2/v2.0/authorize", "token_endpoint": base + "/oauth2/v2.0/token",
		})
		return
	case r.Method != http.MethodPost || path != "oauth2/v2.0/token":
		fail(http.StatusNotFound, "not_found", "there is nothing at "+r.URL.Path)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil || r.PostForm.Get("client_assertion") == "" || r.PostForm.Get("grant_type") != "client_credentials" {
		fail(http.StatusBadRequest, "invalid_request", "AADSTS900144: a client assertion is required")
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.requests["authority"]++
	if tenant != e.mu.state.Tenant {
		fail(http.StatusBadRequest, "invalid_request", "AADSTS90002: Tenant '"+tenant+"' not found.")
		return
	}
	// The scope is the resource's, followed by those every client adds.
	scope, _, _ := strings.Cut(r.PostForm.Get("scope"), " ")
	for _, id := range e.mu.state.Identities {
		if id.ClientID == r.PostForm.Get("client_id") {
			assertion := r.PostForm.Get("client_assertion")
			err := id.proven(assertion, e.mu.state.now())
			if _, _, ours := e.mu.state.identify(assertion, exchange, time.Now()); err == nil && ours != nil && !errors.Is(ours, errToken) {
				err = fmt.Errorf("AADSTS700212: No matching federated identity record found for presented assertion: %w", ours)
			}
			if err != nil {
				fail(http.StatusUnauthorized, "invalid_client", err.Error())
				return
			}
			token, c := e.mu.state.token(id, strings.TrimSuffix(scope, "/.default"), time.Now())
			writeJSON(w, http.StatusOK, map[string]any{"token_type": "Bearer", "access_token": token, "expires_in": c.Expires - c.Issued, "ext_expires_in": c.Expires - c.Issued})
			return
		}
	}
	fail(http.StatusBadRequest, "unauthorized_client", "AADSTS700016: Application with identifier '"+r.PostForm.Get("client_id")+"' was not found in the directory")
}

// trust sets what an application proves itself with.
func (id *Identity) trust(with Command) error {
	if with.Assertion != "" {
		id.Certificate, id.Assertion = nil, with.Assertion
		return nil
	}
	block, _ := pem.Decode([]byte(with.Certificate))
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("the certificate is no PEM certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if _, ok := c.PublicKey.(*rsa.PublicKey); !ok {
		return errors.New("the certificate is not one of an RSA key")
	}
	id.Certificate, id.Assertion = c.Raw, ""
	return nil
}

// proven refuses an assertion that the application's certificate did not sign,
// or one that has expired.
func (id *Identity) proven(assertion string, now time.Time) error {
	if id.Certificate == nil {
		if id.Assertion != "" && assertion != id.Assertion {
			return errors.New("AADSTS70021: No matching federated identity record found for presented assertion")
		}
		return nil
	}
	c, err := x509.ParseCertificate(id.Certificate)
	if err != nil {
		return err
	}
	if now.After(c.NotAfter) {
		return errors.New("AADSTS7000222: The certificate has expired")
	}
	wrong := errors.New("AADSTS700027: The certificate with which the assertion was signed is not registered on the application")
	i := strings.LastIndexByte(assertion, '.')
	if i < 0 {
		return wrong
	}
	signature, err := b64.DecodeString(assertion[i+1:])
	if err != nil {
		return wrong
	}
	digest := sha256.Sum256([]byte(assertion[:i]))
	public := c.PublicKey.(*rsa.PublicKey) // trust takes no other
	if rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, nil) != nil && rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) != nil {
		return wrong
	}
	return nil
}
