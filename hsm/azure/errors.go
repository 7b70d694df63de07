package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"cmkfs/hsm"
)

// envelope is the body of a vault's error.
type envelope struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Inner   struct {
			Code string `json:"code"`
		} `json:"innererror"`
	} `json:"error"`
}

// failure is an SDK's error on its way to become ours.
type failure struct {
	*hsm.Error
	key *key
}

// because sets the condition, and which of its causes it is.
func (f failure) because(kind hsm.Kind, c hsm.Condition, cause string) {
	f.Kind, f.Condition, f.Message = kind, c, c.Because(cause)
}

// classify turns an SDK's error into ours. The cause is shortened to one line
// without the SDK's dump of the exchange.
func (k *key) classify(op, keyID string, err error) *hsm.Error {
	f := failure{&hsm.Error{Op: op, KeyID: keyID}, k}
	var response *azcore.ResponseError
	var auth *azidentity.AuthenticationFailedError
	var challenge *challengeError
	var answer *answerError
	switch {
	case unreadable(err) != nil:
		f.Op, f.Reason, f.Err = "token", "IdentityFile", unreadable(err)
		f.because(hsm.KindUnreachable, hsm.Unusable, "the file that proves the configured identity cannot be read")
		f.Hint = "check AZURE_FEDERATED_TOKEN_FILE in the daemon's environment, and that the daemon may read the file"
	case errors.As(err, &auth):
		f.token(auth)
	case errors.As(err, &response):
		f.response(response)
	case errors.As(err, &answer):
		f.Reason, f.Err = answer.reason, errors.New(oneLine(err))
		f.because(hsm.KindMisconfigured, hsm.NoConnection, answer.what)
		f.Hint = k.notAVault()
	case errors.As(err, &challenge), strings.Contains(err.Error(), "challenge"):
		f.Reason, f.Err = "Challenge", errors.New(oneLine(err))
		f.because(hsm.KindMisconfigured, hsm.NoConnection, "the host that answers is not the configured Key Vault")
		f.Hint = k.notAVault()
	case errors.Is(err, context.Canceled):
		f.Kind, f.Reason, f.Message, f.Err = hsm.KindUnreachable, "Cancelled", "The key operation was given up", context.Canceled
	case isCredential(err):
		f.noToken(errors.New(oneLine(err)))
	case isGarbage(err):
		f.Reason, f.Err = "Protocol", errors.New(oneLine(err))
		f.because(hsm.KindMisconfigured, hsm.NoConnection, "what answers there is no Key Vault")
		f.Hint = k.notAVault()
	default:
		f.network(err)
	}
	return f.Error
}

// isCredential recognises the errors of credentials that never got an answer;
// the SDK exports no type for them but prefixes them with the credential's name.
func isCredential(err error) bool {
	s := err.Error()
	return strings.Contains(s, "ManagedIdentityCredential") || strings.Contains(s, "WorkloadIdentityCredential") ||
		strings.Contains(s, "ClientCertificateCredential") || strings.Contains(s, "ClientAssertionCredential")
}

// unreadable is why the file of a workload identity, whose error this is, cannot
// be read; nil if it can. The SDK does not wrap what it saw.
func unreadable(err error) error {
	if !strings.Contains(err.Error(), "WorkloadIdentityCredential") {
		return nil
	}
	f, err := os.Open(os.Getenv("AZURE_FEDERATED_TOKEN_FILE"))
	if err != nil {
		return err
	}
	f.Close()
	return nil
}

// isGarbage recognises answers that the SDK or net/http cannot read. There is
// no type for them: only the text is left.
func isGarbage(err error) bool {
	return slices.ContainsFunc([]string{"unmarshalling type", "malformed HTTP", "malformed MIME", "response headers exceeded"},
		func(s string) bool { return strings.Contains(err.Error(), s) })
}

// token classes the refusal of the endpoint that gives out tokens.
func (f failure) token(auth *azidentity.AuthenticationFailedError) {
	r := auth.RawResponse
	if r == nil {
		f.noToken(errors.New(oneLine(auth)))
		return
	}
	cause := fmt.Errorf("token endpoint: HTTP %d", r.StatusCode)
	f.RetryAfter = retryAfter(r.Header)
	switch {
	case r.StatusCode == http.StatusTooManyRequests:
		f.Kind, f.Op, f.Reason, f.Err = hsm.KindThrottled, "token", "Throttled", cause
		f.Message = "The identity's token endpoint receives too many requests"
		return
	case r.StatusCode < 400, transient(r.StatusCode), r.StatusCode == http.StatusNotFound, r.StatusCode == http.StatusGone:
		f.noToken(cause)
		return
	}
	f.Op, f.Reason, f.Err = "token", "IdentityRefused", cause
	f.because(hsm.KindDenied, hsm.Unusable, "the configured identity is refused a token for the Key Vault")
	f.Hint = "check that the identity exists and is assigned to this host: cmkfsd account show"
}

// noToken is an endpoint for tokens that gives no answer.
func (f failure) noToken(cause error) {
	f.Op, f.Reason, f.Err = "token", "IdentityUnavailable", cause
	f.because(hsm.KindUnreachable, hsm.NoConnection, "the identity's token endpoint does not answer")
	f.Hint = "check that this host has a managed identity, and IDENTITY_ENDPOINT or AZURE_AUTHORITY_HOST in the daemon's environment"
}

// network is no answer at all: it says how far the connection got.
func (f failure) network(err error) { f.unanswered(networkReason(err), err) }

// unanswered is network with a reason that is known.
func (f failure) unanswered(reason string, err error) {
	f.Reason, f.Err = reason, errors.New(oneLine(err))
	to := f.key.host
	if f.key.cfg.PrivateEndpoint != "" {
		to = "the private endpoint " + f.key.cfg.PrivateEndpoint
	}
	causes := map[string][2]string{
		"DNS":        {"its name cannot be resolved", "check the vault's name, and the private DNS zone or /etc/resolv.conf of this host"},
		"Connect":    {"nothing accepts connections at " + to, "check the address, routes and firewalls between this host and the vault"},
		"TLS":        {"who answers at " + to + " cannot prove to be the vault", "check the address, and give the vault's certificate authority with --key-vault-ca if it is a private one"},
		"Timeout":    {"there is no answer from " + to + " in time", "check routes and firewalls between this host and the vault"},
		"Connection": {"the connection to " + to + " broke", "check what lies between this host and the vault"},
	}
	f.because(hsm.KindUnreachable, hsm.NoConnection, causes[f.Reason][0])
	f.Hint = causes[f.Reason][1]
}

func (k *key) notAVault() string {
	if k.cfg.PrivateEndpoint != "" {
		return "check --key-vault-private-endpoint: something else answers at " + k.cfg.PrivateEndpoint
	}
	return "check where the name " + k.host + " leads to"
}

func transient(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500
}

// response classes what a vault, or something before it, answered.
func (f failure) response(response *azcore.ResponseError) {
	var body envelope
	if raw, err := runtime.Payload(response.RawResponse); err == nil {
		_ = json.Unmarshal(raw, &body) // something that is no vault has no envelope
	}
	code, inner := firstLine(body.Error.Code), firstLine(body.Error.Inner.Code)
	header := response.RawResponse.Header
	f.Err = fmt.Errorf("HTTP %d %s, request %s: %s", response.StatusCode, join(code, inner), header.Get("x-ms-request-id"), firstLine(body.Error.Message))
	f.Reason = firstOf(inner, code, "HTTP"+strconv.Itoa(response.StatusCode))
	switch status := response.StatusCode; {
	case status == http.StatusForbidden && code == "":
		f.because(hsm.KindNetworkDenied, hsm.NoConnection, "something before it, such as a proxy or firewall, refuses the request")
	case status == http.StatusForbidden:
		f.forbidden(firstOf(inner, code), claimsOf(tokenOf(response.RawResponse.Request)).Object)
	case status == http.StatusNotFound && (code == "KeyNotFound" || code == "NotFound"):
		f.Kind, f.Condition, f.Message = hsm.KindDenied, hsm.KeyNotFound, hsm.KeyNotFound.Error()
		if code == "NotFound" { // not a vault's word for a deleted key, so it is no denial
			f.Kind = hsm.KindMisconfigured
		}
		f.Hint = "cmkfsd account list-keys shows what there is; a deleted key can be recovered in the vault"
	case status == http.StatusTooManyRequests:
		f.Kind, f.Message, f.RetryAfter = hsm.KindThrottled, "The Key Vault receives too many requests", retryAfter(header)
		f.Reason = "Throttled"
	case status == http.StatusUnauthorized:
		f.because(hsm.KindMisconfigured, hsm.Unusable, "the Key Vault does not accept the identity's token")
		f.Hint = "check that the identity is of the vault's tenant (for another tenant's vault use --federated-client-id) and that this host's clock is right"
	case status == http.StatusBadRequest && f.Op == "decrypt":
		f.Kind, f.Reason, f.Message = hsm.KindMisconfigured, "BadCiphertext", "The wrapped key is damaged or was wrapped by another key"
	case transient(status):
		f.because(hsm.KindUnreachable, hsm.NoConnection, "it is not available at the moment")
		f.RetryAfter = retryAfter(header)
	case code != "":
		f.because(hsm.KindMisconfigured, hsm.Unusable, "the Key Vault does not accept the request")
	default:
		f.because(hsm.KindUnreachable, hsm.NoConnection, "what answers there is no Key Vault")
		if status < 300 { // nothing is in the way: it is the wrong host
			f.Kind = hsm.KindMisconfigured
		}
		f.Hint = f.key.notAVault()
	}
}

// forbidden classes a vault's 403 by its inner code. Any that is not known is a
// denial as well: the vault answered, and its answer was no.
func (f failure) forbidden(inner, principal string) {
	permission := f.key.permission(f.Op)
	who := "the configured identity"
	if principal != "" {
		who = "the identity with the object id " + principal
	}
	unusable := func(cause, hint string) {
		f.because(hsm.KindDenied, hsm.Unusable, cause)
		f.Hint = hint
	}
	switch inner {
	case "KeyDisabled":
		f.Kind, f.Condition, f.Message = hsm.KindDenied, hsm.KeyNotEnabled, hsm.KeyNotEnabled.Error()
	case "KeyOperationForbidden":
		hint := "add " + permission + " to the key's permitted operations"
		if !f.key.wrap {
			hint += "; a key that may wrap and unwrap only needs --key-vault-permissions wrap-unwrap"
		}
		unusable("the key itself does not permit "+permission+" (key_ops)", hint)
	case "ForbiddenByRbac":
		unusable("no role assignment permits "+permission,
			"assign "+who+" a role with the data action Microsoft.KeyVault/vaults/"+dataActions[permission]+f.otherPair())
	case "ForbiddenByPolicy", "AccessDenied":
		if f.key.managed {
			unusable("no local role assignment permits "+permission, "assign "+who+" a Managed HSM role with "+permission+f.otherPair())
			return
		}
		unusable("the access policy does not permit "+permission, "permit "+permission+" to "+who+" in the vault's access policy"+f.otherPair())
	case "ForbiddenByFirewall":
		f.because(hsm.KindNetworkDenied, hsm.NoConnection, "its firewall refuses this address")
		f.Hint = "add this host's address to the vault's firewall, or reach it over a private endpoint"
	case "ForbiddenByConnection":
		f.because(hsm.KindNetworkDenied, hsm.NoConnection, "public access is disabled and the request does not come over a private endpoint")
		f.Hint = "name the private endpoint's address with --key-vault-private-endpoint"
	default:
		unusable("the Key Vault refuses "+permission, "")
	}
}

// dataActions are permissions as roles name them.
var dataActions = map[string]string{
	"get": "keys/read", "list": "keys/read", "encrypt": "keys/encrypt/action", "decrypt": "keys/decrypt/action",
	"wrapKey": "keys/wrap/action", "unwrapKey": "keys/unwrap/action",
}

// permission is what a vault calls the permission for one of our operations.
func (k *key) permission(op string) string {
	if k.wrap {
		switch op {
		case "encrypt":
			return "wrapKey"
		case "decrypt":
			return "unwrapKey"
		}
	}
	return op
}

// otherPair reminds of roles that have the other pair of permissions: the
// predefined one for services' encryption can only wrap and unwrap. Such a role
// fails at encrypt, the first of ours that it lacks.
func (f failure) otherPair() string {
	if f.key.wrap || f.Op != "encrypt" {
		return ""
	}
	return "; if it is meant to have wrapKey and unwrapKey only (Key Vault Crypto Service Encryption User), use --key-vault-permissions wrap-unwrap"
}

// retryAfter reads the header as seconds or as a date; 0 = not said.
func retryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return min(max(0, time.Until(t)), maxRetryAfter)
	}
	return 0
}

// maxRetryAfter bounds what a vault can ask for.
const maxRetryAfter = 24 * time.Hour

func join(code, inner string) string {
	if inner == "" {
		return code
	}
	return code + "/" + inner
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// firstLine is the beginning of a text that somebody else wrote, without what
// would control a terminal or begin a line of its own.
func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// oneLine is an SDK's error without its advice for programmers.
func oneLine(err error) string {
	s, _, _ := strings.Cut(firstLine(err.Error()), ". To troubleshoot, visit")
	return s
}
