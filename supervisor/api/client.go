package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"cmkfs/account"
)

// Client talks to the daemon of one state directory. Methods fail with *Error;
// one with CodeNoDaemon says that no daemon listens.
type Client struct {
	http   http.Client
	socket string
}

// maxBody bounds what either side reads of the other, in bytes.
const maxBody = 16 << 20

// NewClient returns a client for a socket. Nothing is opened before the first
// call.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for everything; it is also how a daemon is found to be there.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// CreateAccount makes an account.
func (c *Client) CreateAccount(ctx context.Context, r CreateAccount) (account.Account, error) {
	return call[account.Account](ctx, c, http.MethodPost, "/v1/accounts", r)
}

// UpdateAccount changes an account.
func (c *Client) UpdateAccount(ctx context.Context, name string, r UpdateAccount) (account.Account, error) {
	return call[account.Account](ctx, c, http.MethodPatch, accountPath(name), r)
}

// RenewCredentials gets and uses an account's credentials anew.
func (c *Client) RenewCredentials(ctx context.Context, name string) (RenewedCredentials, error) {
	return call[RenewedCredentials](ctx, c, http.MethodPost, accountPath(name)+"/renew-credentials", nil)
}

// RekeyAccount replaces an account's customer-managed key by another one.
func (c *Client) RekeyAccount(ctx context.Context, name string, r Rekey) (account.Account, error) {
	return call[account.Account](ctx, c, http.MethodPost, accountPath(name)+"/rekey", r)
}

// NoteKeyOperations adds to an account's audit log what the caller has asked of a
// key.
func (c *Client) NoteKeyOperations(ctx context.Context, name string, r KeyOperations) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, accountPath(name)+"/key-operations", r)
	return err
}

// DeleteAccount removes an account without volumes.
func (c *Client) DeleteAccount(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, accountPath(name), nil)
	return err
}

// SuspendAccount locks all volumes of an account.
func (c *Client) SuspendAccount(ctx context.Context, name string) (AccountStatus, error) {
	return call[AccountStatus](ctx, c, http.MethodPost, accountPath(name)+"/suspend", nil)
}

// RestoreAccount gives access to all volumes of an account back.
func (c *Client) RestoreAccount(ctx context.Context, name string) (AccountStatus, error) {
	return call[AccountStatus](ctx, c, http.MethodPost, accountPath(name)+"/restore-access", nil)
}

// CreateVolume makes a volume.
func (c *Client) CreateVolume(ctx context.Context, account string, r CreateVolume) (VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, http.MethodPost, accountPath(account)+"/volumes", r)
}

// DeleteVolume removes an unmounted volume and its data.
func (c *Client) DeleteVolume(ctx context.Context, account, volume string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, volumePath(account, volume), nil)
	return err
}

// Mount mounts a volume.
func (c *Client) Mount(ctx context.Context, account, volume string, r Mount) (VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, http.MethodPost, volumePath(account, volume)+"/mount", r)
}

// Unmount unmounts a volume.
func (c *Client) Unmount(ctx context.Context, account, volume string, r Unmount) (VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, http.MethodPost, volumePath(account, volume)+"/unmount", r)
}

// SuspendVolume locks one volume.
func (c *Client) SuspendVolume(ctx context.Context, account, volume string) (VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, http.MethodPost, volumePath(account, volume)+"/suspend", nil)
}

// RestoreVolume gives access to one volume back.
func (c *Client) RestoreVolume(ctx context.Context, account, volume string) (VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, http.MethodPost, volumePath(account, volume)+"/restore-access", nil)
}

func accountPath(name string) string { return "/v1/accounts/" + url.PathEscape(name) }

func volumePath(account, volume string) string {
	return accountPath(account) + "/volumes/" + url.PathEscape(volume)
}

// open does one request with an optional JSON body and returns the body of its
// answer, or the error that the answer is.
func (c *Client) open(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://cmkfsd"+path, r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, &Error{Code: CodeNoDaemon, Message: "no cmkfsd daemon serves this state directory", err: err}
		}
		return nil, &Error{Code: CodeFailed, Message: fmt.Sprintf("the daemon did not answer: %v", errors.Unwrap(err)), err: err}
	}
	if resp.StatusCode < 400 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, brokenOff(err)
	}
	var e errorBody
	if json.Unmarshal(b, &e) == nil && e.Error != nil {
		return nil, e.Error
	}
	return nil, Errorf(CodeFailed, fmt.Sprintf("the daemon answered %s", resp.Status))
}

func brokenOff(err error) *Error {
	return &Error{Code: CodeFailed, Message: fmt.Sprintf("the daemon broke off its answer: %v", err), err: err}
}

// call does one request and decodes the answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	r, err := c.open(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxBody))
	if err != nil {
		return answer, brokenOff(err)
	}
	if len(b) == 0 {
		return answer, nil
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return answer, &Error{Code: CodeFailed, Message: fmt.Sprintf("the daemon's answer is not understood: %v", err), err: err}
	}
	return answer, nil
}
