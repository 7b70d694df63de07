package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"cmkfs/hsm"
)

// The sentences are the ones users know from the document this implements.
const (
	msgNotFound   = "The operation failed because the specified key vault key was not found"
	msgNotEnabled = "Azure Key Vault key is not enabled"
	msgUnusable   = "Unable to use the configured encryption key, please check if key is active"
	msgNoConnect  = "Could not connect to the KeyVault"
	msgNoToken    = "The identity's token endpoint does not answer"
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

// verdict is what an answer means.
type verdict struct {
	kind    hsm.Kind
	message string
}

// forbidden has the inner codes of 403. Any other one is denied as well: the
// vault answered, and its answer was no.
var forbidden = map[string]verdict{
	"KeyDisabled":           {hsm.KindDenied, msgNotEnabled},
	"KeyOperationForbidden": {hsm.KindDenied, msgUnusable + ": the key does not permit the operation"},
	"ForbiddenByPolicy":     {hsm.KindDenied, msgUnusable + ": the access policy does not permit the operation"},
	"ForbiddenByRbac":       {hsm.KindDenied, msgUnusable + ": no role assignment permits the operation"},
	"AccessDenied":          {hsm.KindDenied, msgUnusable + ": the access policy does not permit the operation"},
	"ForbiddenByFirewall":   {hsm.KindNetworkDenied, msgNoConnect + ": its firewall refuses this address"},
	"ForbiddenByConnection": {hsm.KindNetworkDenied, msgNoConnect + ": public access is disabled and the request does not come over a private endpoint"},
}

// classify turns an SDK's error into ours. The cause is shortened to one line
// without the SDK's dump of the exchange.
func classify(op, keyID string, err error) *hsm.Error {
	e := &hsm.Error{Op: op, KeyID: keyID, Kind: hsm.KindUnreachable, Message: msgNoConnect}
	var response *azcore.ResponseError
	var auth *azidentity.AuthenticationFailedError
	var challenge *challengeError
	switch {
	case errors.As(err, &auth):
		classifyToken(e, auth)
	case errors.As(err, &response):
		classifyResponse(e, response)
	case errors.As(err, &challenge), strings.Contains(err.Error(), "challenge"):
		e.Kind, e.Reason, e.Err = hsm.KindMisconfigured, "Challenge", errors.New(oneLine(err))
		e.Message = "The host that answered is not the configured Key Vault"
	case errors.Is(err, context.Canceled):
		e.Reason, e.Message, e.Err = "Cancelled", "The key operation was given up", context.Canceled
	case isCredential(err):
		e.Op, e.Reason, e.Message = "token", "IdentityUnavailable", msgNoToken
		e.Err = errors.New(oneLine(err))
	default:
		e.Reason, e.Err = networkReason(err), errors.New(oneLine(err))
	}
	return e
}

// isCredential recognises the errors of credentials that never got an answer;
// the SDK exports no type for them but prefixes them with the credential's name.
func isCredential(err error) bool {
	s := err.Error()
	return strings.Contains(s, "ManagedIdentityCredential") || strings.Contains(s, "WorkloadIdentityCredential") ||
		strings.Contains(s, "ClientCertificateCredential") || strings.Contains(s, "ClientAssertionCredential")
}

func classifyToken(e *hsm.Error, auth *azidentity.AuthenticationFailedError) {
	e.Op = "token"
	if r := auth.RawResponse; r != nil {
		e.Err = fmt.Errorf("token endpoint: HTTP %d", r.StatusCode)
		if r.StatusCode >= 400 && r.StatusCode < 500 && !transient(r.StatusCode) && r.StatusCode != http.StatusNotFound && r.StatusCode != http.StatusGone {
			e.Kind, e.Reason = hsm.KindDenied, "IdentityRefused"
			e.Message = "The configured identity is refused a token for the Key Vault"
			return
		}
	} else {
		e.Err = errors.New(oneLine(auth))
	}
	e.Reason, e.Message = "IdentityUnavailable", msgNoToken
}

func transient(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500
}

func classifyResponse(e *hsm.Error, response *azcore.ResponseError) {
	var body envelope
	if raw, err := runtime.Payload(response.RawResponse); err == nil {
		_ = json.Unmarshal(raw, &body) // something that is no vault has no envelope
	}
	code, inner := body.Error.Code, body.Error.Inner.Code
	header := response.RawResponse.Header
	e.Err = fmt.Errorf("HTTP %d %s, request %s: %s", response.StatusCode, join(code, inner), header.Get("x-ms-request-id"), firstLine(body.Error.Message))
	e.Reason = firstOf(inner, code, "HTTP"+strconv.Itoa(response.StatusCode))
	switch status := response.StatusCode; {
	case status == http.StatusForbidden && code == "":
		e.Kind, e.Message = hsm.KindNetworkDenied, msgNoConnect+": something before it refused the request"
	case status == http.StatusForbidden:
		v, ok := forbidden[inner]
		if !ok {
			v = verdict{hsm.KindDenied, msgUnusable}
		}
		e.Kind, e.Message = v.kind, v.message
	case status == http.StatusNotFound && code == "KeyNotFound":
		e.Kind, e.Message = hsm.KindDenied, msgNotFound
	case status == http.StatusTooManyRequests:
		e.Kind, e.Message, e.RetryAfter = hsm.KindThrottled, "The Key Vault receives too many requests", retryAfter(header)
		e.Reason = "Throttled"
	case status == http.StatusUnauthorized:
		e.Kind, e.Message = hsm.KindMisconfigured, "The Key Vault does not accept tokens of the configured identity's tenant"
	case status == http.StatusBadRequest && e.Op == "decrypt":
		e.Kind, e.Reason, e.Message = hsm.KindMisconfigured, "BadCiphertext", "The wrapped key is damaged or was wrapped by another key"
	case transient(status):
		e.Message = msgNoConnect + ": it is not available at the moment"
	case code != "":
		e.Kind, e.Message = hsm.KindMisconfigured, "The Key Vault does not accept the request"
	default:
		e.Message = msgNoConnect + ": what answers there is no Key Vault"
	}
}

// retryAfter reads the header as seconds or as a date; 0 = not said.
func retryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

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

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	s = strings.TrimSpace(s)
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

func oneLine(err error) string { return firstLine(err.Error()) }
