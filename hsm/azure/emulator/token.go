package emulator

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const tokenLife = 24 * time.Hour

// claims are what a token says.
type claims struct {
	Audience string `json:"aud"`
	Issuer   string `json:"iss"`
	Tenant   string `json:"tid"`
	Object   string `json:"oid"`
	App      string `json:"appid"`
	Expires  int64  `json:"exp"`
	Issued   int64  `json:"iat"`
}

var b64 = base64.RawURLEncoding

// token makes a signed token, in the form of a JWT.
func (s *state) token(id *Identity, audience string, now time.Time) (string, claims) {
	c := claims{
		Audience: audience, Issuer: "https://sts.windows.net/" + s.Tenant + "/", Tenant: s.Tenant,
		Object: id.ObjectID, App: id.ClientID, Issued: now.Unix(), Expires: now.Add(tokenLife).Unix(),
	}
	body, _ := json.Marshal(c) // strings and numbers: cannot fail
	t := b64.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + b64.EncodeToString(body)
	return t + "." + b64.EncodeToString(s.sign(t)), c
}

func (s *state) sign(t string) []byte {
	m := hmac.New(sha256.New, s.TokenKey)
	m.Write([]byte(t))
	return m.Sum(nil)
}

var errToken = errors.New("AKV10022: Invalid token")

// identify returns the identity whose token this is.
func (s *state) identify(token, audience string, now time.Time) (*Identity, claims, error) {
	var c claims
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return nil, c, errToken
	}
	sig, err := b64.DecodeString(token[i+1:])
	if err != nil || !hmac.Equal(sig, s.sign(token[:i])) {
		return nil, c, errToken
	}
	_, payload, _ := strings.Cut(token[:i], ".")
	body, err := b64.DecodeString(payload)
	if err != nil || json.Unmarshal(body, &c) != nil {
		return nil, c, errToken
	}
	switch {
	case now.Unix() >= c.Expires:
		return nil, c, errors.New("AKV10046: Unable to validate token: it has expired")
	case c.Audience != audience:
		return nil, c, errors.New("AKV10022: Invalid audience. Expected " + audience + ", found: " + c.Audience)
	case c.Tenant != s.Tenant:
		return nil, c, errors.New("AKV10032: Invalid issuer. Expected one of https://sts.windows.net/" + s.Tenant + "/, found " + c.Issuer)
	}
	for _, id := range s.Identities {
		if id.ObjectID == c.Object {
			return id, c, nil
		}
	}
	return nil, c, errToken
}

// serveToken answers as App Service's endpoint (/msi/token) and as IMDS do.
func (e *Emulator) serveToken(w http.ResponseWriter, r *http.Request, imds bool) {
	fail := func(status int, code, message string) {
		writeJSON(w, status, map[string]any{"statusCode": status, "error": code, "error_description": message, "message": message})
	}
	q := r.URL.Query()
	resource := strings.TrimSuffix(q.Get("resource"), "/")
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case imds && r.Header.Get("Metadata") != "true":
		fail(http.StatusBadRequest, "bad_request_102", "Required metadata header not specified")
		return
	case !imds && r.Header.Get("X-Identity-Header") != e.mu.state.IdentityHeader:
		fail(http.StatusUnauthorized, "unauthorized", "X-IDENTITY-HEADER is missing or wrong")
		return
	case q.Get("api-version") == "" || resource == "":
		fail(http.StatusBadRequest, "invalid_request", "api-version and resource are required")
		return
	}
	id := e.mu.state.chosen(q)
	if id == nil {
		fail(http.StatusBadRequest, "invalid_request", "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.")
		return
	}
	token, c := e.mu.state.token(id, resource, time.Now())
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "token_type": "Bearer", "resource": resource, "client_id": id.ClientID,
		"expires_on": strconv.FormatInt(c.Expires, 10), "not_before": strconv.FormatInt(c.Issued, 10),
		"expires_in": strconv.FormatInt(c.Expires-c.Issued, 10),
	})
}

// chosen finds the identity that the query names, the system-assigned one if it
// names none.
func (s *state) chosen(q map[string][]string) *Identity {
	get := func(name string) string {
		if v := q[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	client, object := get("client_id"), get("object_id")+get("principal_id")
	resource := get("mi_res_id") + get("msi_res_id")
	for _, id := range s.Identities {
		switch {
		case client+object+resource == "" && id.System,
			client != "" && client == id.ClientID,
			object != "" && object == id.ObjectID,
			resource != "" && strings.EqualFold(resource, id.ResourceID):
			return id
		}
	}
	return nil
}
