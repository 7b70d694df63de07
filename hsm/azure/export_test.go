package azure

import (
	"bytes"
	"io"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"cmkfs/hsm"
)

// ReadChallenge is readChallenge.
func ReadChallenge(headers ...string) (string, error) { return readChallenge(headers) }

// OpenOn is Open with another way to the vault.
func OpenOn(cfg hsm.AzureConfig, way http.RoundTripper) (hsm.Key, error) {
	k, err := newKey(cfg)
	if err != nil {
		return nil, err
	}
	k.http.Transport = answers{way, k.host}
	return k, nil
}

// Classify is what a key makes of a refusal to a request that had a token.
func Classify(status int, header http.Header, token string, body []byte) error {
	r := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: "fuzz-vault.vault.azure.net"}, Header: http.Header{"Authorization": {"Bearer " + token}}}
	err := runtime.NewResponseError(&http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(body)), Request: r})
	return (&key{host: "fuzz-vault.vault.azure.net"}).classify("get", "https://fuzz-vault.vault.azure.net/keys/k", err)
}
