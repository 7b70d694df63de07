package azure

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
)

// claims are what a token says about whose it is, as far as it says it. It is
// what the vault's administrator gives permissions to; nothing depends on it,
// so the token's signature does not matter.
type claims struct {
	Object     string `json:"oid"`
	Tenant     string `json:"tid"`
	App        string `json:"appid"` // of version 1 tokens
	Authorized string `json:"azp"`   // the same of version 2 tokens
}

func (c claims) client() string { return cmp.Or(c.App, c.Authorized) }

// claimsOf reads a token; what cannot be read is empty.
func claimsOf(token string) claims {
	var c claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return claims{}
	}
	return c
}

// asked returns whose token a request carries.
func asked(r *http.Request) claims {
	if r == nil {
		return claims{}
	}
	return claimsOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
}
