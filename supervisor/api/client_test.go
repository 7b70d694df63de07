package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
)

func serve(t *testing.T, h http.Handler) *api.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	c := api.NewClient(socket)
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c
}

func TestClient_Call_AnswerAndErrors(t *testing.T) {
	var fail error
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail != nil {
			api.WriteError(w, fail)
			return
		}
		if r.Method != http.MethodPost || r.URL.Path != "/v1/accounts/a/volumes/v/mount" {
			t.Errorf("got %s %s", r.Method, r.URL.Path)
		}
		var m api.Mount
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || m.MountPoint != "/mnt" {
			t.Errorf("body %+v %v", m, err)
		}
		_ = json.NewEncoder(w).Encode(api.VolumeStatus{Name: "v", State: api.VolumeOnline})
	}))
	v, err := c.Mount(context.Background(), "a", "v", api.Mount{MountPoint: "/mnt"})
	if err != nil || v.State != api.VolumeOnline {
		t.Fatalf("%+v %v", v, err)
	}
	for want, err := range map[api.Code]error{
		api.CodeDenied:      fmt.Errorf("mount: %w", &hsm.Error{Kind: hsm.KindDenied, Reason: "KeyDisabled"}),
		api.CodeUnreachable: &hsm.Error{Kind: hsm.KindUnreachable},
		api.CodeBusy:        fmt.Errorf("serve: %w", account.ErrDaemonRuns),
		api.CodeNotFound:    account.ErrNotFound,
		api.CodeSuspended:   fmt.Errorf("mount: %w", api.Errorf(api.CodeSuspended, "the account is suspended")),
		api.CodeInvalid:     &account.NameError{Kind: "volume", Name: "/"},
		api.CodeFailed:      errors.New("something"),
	} {
		fail = err
		_, got := c.Mount(context.Background(), "a", "v", api.Mount{})
		var e *api.Error
		if !errors.As(got, &e) || e.Code != want || e.Message != api.ErrorOf(err).Message {
			t.Errorf("%v: got %+v", err, got)
		}
	}
}

// What a vault answered crosses the socket beside the sentence, not in it.
func TestClient_Call_Condition(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		api.WriteError(w, fmt.Errorf("create volume v: %w", &hsm.Error{
			Op: "get", KeyID: "https://v.vault.azure.net/keys/k", Kind: hsm.KindDenied, Condition: hsm.KeyExpired, Reason: "KeyExpired",
			Message: hsm.KeyExpired.Error(), Hint: "renew it", Err: errors.New("HTTP 403, request 17"),
		}))
	}))
	_, err := c.Status(context.Background())
	var e *api.Error
	if !errors.As(err, &e) || !errors.Is(err, hsm.KeyExpired) || errors.Is(err, hsm.KeyNotFound) {
		t.Fatalf("%+v", err)
	}
	if e.Message != "create volume v: Azure Key Vault key is expired" || e.Hint != "renew it" ||
		e.Cause != "get https://v.vault.azure.net/keys/k: KeyExpired: HTTP 403, request 17" {
		t.Errorf("%+v", e)
	}
}

func TestClient_Call_NoDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	check := func() {
		t.Helper()
		var e *api.Error
		if _, err := api.NewClient(socket).Status(context.Background()); !errors.As(err, &e) || e.Code != api.CodeNoDaemon {
			t.Errorf("%v", err)
		}
	}
	check()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	check() // a socket nobody listens on, as a killed daemon leaves it
}
