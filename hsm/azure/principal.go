package azure

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
)

// principal returns the object id of whose token a request carries, "" if that
// cannot be read. It is what the vault's administrator gives permissions to;
// nothing depends on it, so the token's signature does not matter.
func principal(r *http.Request) string {
	if r == nil {
		return ""
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	parts := strings.Split(token, ".")
	if !ok || len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Object string `json:"oid"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Object
}
