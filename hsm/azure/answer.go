package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// maxAnswer is the most that is read of an answer, in bytes. A page of a list
// of keys, the longest that a vault sends, has some ten thousand.
const maxAnswer = 1 << 20

// answers is between the SDK and the network. It keeps from the SDK what it
// would trip over: challenges that are none or are written in another way than
// it reads, answers without end, and links to other hosts, which would be given
// the vault's token.
type answers struct {
	next http.RoundTripper
	host string // of the vault
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if port := r.URL.Port(); r.URL.Scheme != "https" || !strings.EqualFold(r.URL.Hostname(), a.host) || port != "" && port != "443" {
		return nil, &answerError{"Elsewhere", "its answer leads to another host", errors.New(r.URL.Host)}
	}
	resp, err := bounded{a.next}.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return resp, nil
	}
	challenge, err := readChallenge(resp.Header.Values("WWW-Authenticate"))
	switch {
	case err == nil:
		resp.Header.Set("WWW-Authenticate", challenge)
	case r.Header.Get("Authorization") != "":
		resp.Header.Del("WWW-Authenticate") // the token was refused, and that is all
	default:
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// CloseIdleConnections is for http.Client.
func (a answers) CloseIdleConnections() {
	if t, ok := a.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// answerError is an answer that began and is not one of a vault.
type answerError struct {
	reason, what string
	err          error
}

func (e *answerError) Error() string { return e.what + ": " + e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// NonRetriable tells the SDK not to send the request again.
func (e *answerError) NonRetriable() {}

// bounded lets no answer be longer than maxAnswer. It is all that is between
// credentials and the endpoints that give them tokens.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{ctx: r.Context(), body: resp.Body, left: maxAnswer}
	}
	return resp, err
}

// boundedBody reads no more than it should, and says how an answer that had
// begun went wrong.
type boundedBody struct {
	ctx  context.Context // of the request
	body io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, &answerError{"TooLong", "its answer is too long for a Key Vault", fmt.Errorf("more than %d bytes", maxAnswer)}
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case err == nil:
	case errors.Is(b.ctx.Err(), context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		// Whatever the read says: a server that ends when it is hung up on can
		// make its answer look complete.
		err = &answerError{"TooSlow", "its answer begins and does not end in time", cmp.Or(b.ctx.Err(), err)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = &answerError{"Truncated", "its answer breaks off", err}
	}
	return n, err
}

func (b *boundedBody) Close() error { return b.body.Close() }

// challengeError is an authentication challenge that no vault would send.
type challengeError struct{ why string }

func (e *challengeError) Error() string { return "authentication challenge: " + e.why }

// NonRetriable tells the SDK not to send the request again.
func (e *challengeError) NonRetriable() {}

// readChallenge finds the challenge for a bearer token and writes it as the SDK
// reads it: RFC 9110 leaves the case of names, the order of parameters, blanks
// and quotes open, and allows several challenges. A parameter claims is for the
// SDK, which reads it by itself.
func readChallenge(headers []string) (string, error) {
	values, claims := map[string]string{}, ""
	for _, h := range headers {
		for _, c := range splitChallenges(h) {
			if c.scheme == "bearer" && values["authorization"] == "" {
				values = c.params
				claims = c.params["claims"]
			}
		}
	}
	authorization := firstOf(values["authorization"], values["authorization_uri"])
	resource := firstOf(values["resource"], values["scope"])
	if authorization == "" && resource == "" {
		return "", &challengeError{"it does not ask for a bearer token"}
	}
	u, err := url.Parse(authorization)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return "", &challengeError{"it names no tenant"}
	}
	for before := ""; before != resource; {
		before, resource = resource, strings.TrimRight(strings.TrimSuffix(resource, "/.default"), "/")
	}
	if resource == "" {
		return "", &challengeError{"it names no resource"}
	}
	tenant, _, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	reason := ""
	if claims != "" {
		reason = values["error"]
	}
	if !plain.MatchString(u.Host + tenant + resource + reason + claims) {
		return "", &challengeError{"it has characters that do not belong there"}
	}
	challenge := fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="%s"`, u.Host, tenant, resource)
	if claims != "" {
		challenge += fmt.Sprintf(`, error="%s", claims="%s"`, reason, claims)
	}
	return challenge, nil
}

// plain is what hosts, tenants, resources and base64 are made of: nothing that
// would end a quoted string or begin another parameter.
var plain = regexp.MustCompile(`^[-0-9A-Za-z._~:/+=\[\]]*$`)

type challenge struct {
	scheme string // in lower case
	params map[string]string
}

// splitChallenges reads one header: scheme, blank, name=value parameters
// between commas, and perhaps another scheme. Vaults leave out the commas.
func splitChallenges(h string) []challenge {
	var all []challenge
	for {
		h = strings.TrimLeft(h, " \t,")
		end := strings.IndexAny(h, " \t,=")
		if end < 0 {
			end = len(h)
		}
		word := h[:end]
		if word == "" {
			return all
		}
		rest := strings.TrimLeft(h[end:], " \t")
		value, ok := strings.CutPrefix(rest, "=")
		if !ok {
			all = append(all, challenge{strings.ToLower(word), map[string]string{}})
			h = rest
			continue
		}
		value = strings.TrimLeft(value, " \t")
		if quoted, ok := strings.CutPrefix(value, `"`); ok {
			value, h, _ = strings.Cut(quoted, `"`)
		} else {
			end := strings.IndexAny(value, " \t,")
			if end < 0 {
				end = len(value)
			}
			value, h = value[:end], value[end:]
		}
		if len(all) > 0 {
			all[len(all)-1].params[strings.ToLower(word)] = value
		}
	}
}
