package azure_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm"
	"cmkfs/hsm/azure"
)

// sameAnswer gives every request the same answer, so many times.
type sameAnswer struct {
	status int
	header http.Header
	body   []byte
	left   int
}

func (a *sameAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.left--; a.left < 0 {
		return nil, errors.New("asked too often")
	}
	return &http.Response{StatusCode: a.status, Header: a.header.Clone(), Body: io.NopCloser(bytes.NewReader(a.body)), Request: r}, nil
}

// Whatever a vault answers, a call gives something whole or one of our errors
// with a sentence, and no panic. 401 is FuzzReadChallenge's.
func FuzzAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, status uint16, retryAfter, token string, body []byte) {
		if status < 200 || status > 599 || status == http.StatusUnauthorized {
			return
		}
		a := &sameAnswer{status: int(status), header: http.Header{"Retry-After": {retryAfter}}, body: body}
		if status >= 400 {
			checkError(t, azure.Classify(a.status, a.header, token, body))
			return
		}
		k, err := azure.OpenOn(hsm.AzureConfig{VaultURI: "https://fuzz-vault.vault.azure.net", KeyName: "k"}, a)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		calls := map[string]func() (whole bool, err error){
			"get": func() (bool, error) { i, err := k.Info(ctx); return i.KeyID != "", err },
			"decrypt": func() (bool, error) {
				b, err := k.Unwrap(ctx, hsm.Wrapped{KeyID: "https://fuzz-vault.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef", Algorithm: azure.Algorithm, Ciphertext: []byte("c")})
				return len(b) > 0, err
			},
			"encrypt": func() (bool, error) {
				w, err := k.Wrap(ctx, []byte("p"))
				return strings.HasPrefix(w.KeyID, "https://fuzz-vault.vault.azure.net/keys/") && len(w.Ciphertext) > 0, err
			},
		}
		for name, call := range calls {
			a.left = 4
			whole, err := call()
			if err != nil {
				checkError(t, err)
			} else if !whole {
				t.Errorf("%s: %d %q was taken for an answer", name, status, body)
			}
		}
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var e *hsm.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an error of ours: %v", err)
	}
	switch e.Kind {
	case hsm.KindDenied, hsm.KindNetworkDenied, hsm.KindThrottled, hsm.KindUnreachable, hsm.KindMisconfigured:
	default:
		t.Errorf("kind %q of %v", e.Kind, err)
	}
	if e.Message == "" || e.RetryAfter < 0 || strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("message %q, again after %v, error %q", e.Message, e.RetryAfter, err)
	}
}
