package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

// maxRequest bounds a command's body, in bytes.
const maxRequest = 1 << 20

// listener accepts only connections of root and of our own user. The socket's
// mode and the state directory's say the same; this holds even if somebody
// changes them.
type listener struct {
	*net.UnixListener
}

// listen makes the admin socket. The caller holds the state directory's lock, so
// that a socket that is there is nobody's.
func listen(path string) (listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return listener{}, fmt.Errorf("admin socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return listener{}, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // nobody else gets into the directory
		l.Close()
		return listener{}, fmt.Errorf("admin socket: %w", err)
	}
	return listener{l}, nil
}

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(c); err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
			return c, nil
		}
		c.Close()
	}
}

// peer returns the user of the process at the other end.
func peer(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = cred.Uid
		}
	})
	return uid, errors.Join(err, cerr)
}

// newServer returns the admin socket's server: one handler per route of package
// api, each of which decodes, calls and encodes.
func newServer(s *Supervisor) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		st, err := s.status(r.Context())
		answer(w, st, err)
	})
	mux.HandleFunc("POST /v1/accounts", func(w http.ResponseWriter, r *http.Request) {
		var c api.CreateAccount
		if !decode(w, r, &c) {
			return
		}
		a, err := s.createAccount(r.Context(), c)
		answer(w, a, err)
	})
	onAccount := func(route string, f func(context.Context, *acct, *http.Request) (any, error)) {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			a, err := s.account(r.PathValue("a"))
			if err != nil {
				api.WriteError(w, err)
				return
			}
			// A command that was begun is carried out, also if the one who
			// asked is gone: half of it would help nobody.
			result, err := f(context.WithoutCancel(r.Context()), a, r)
			answer(w, result, err)
		})
	}
	onAccount("PATCH /v1/accounts/{a}", func(ctx context.Context, a *acct, r *http.Request) (any, error) {
		var u api.UpdateAccount
		if err := read(r, &u); err != nil {
			return nil, err
		}
		return a.update(ctx, u)
	})
	onAccount("POST /v1/accounts/{a}/renew-credentials", func(ctx context.Context, a *acct, _ *http.Request) (any, error) {
		return a.renewCredentials(ctx)
	})
	onAccount("POST /v1/accounts/{a}/key-operations", func(_ context.Context, a *acct, r *http.Request) (any, error) {
		var k api.KeyOperations
		if err := read(r, &k); err != nil {
			return nil, err
		}
		a.event(k.Events()...)
		return nil, nil
	})
	onAccount("DELETE /v1/accounts/{a}", func(_ context.Context, a *acct, _ *http.Request) (any, error) {
		return nil, s.deleteAccount(a.name)
	})
	onAccount("POST /v1/accounts/{a}/rekey", func(ctx context.Context, a *acct, r *http.Request) (any, error) {
		var k api.Rekey
		if err := read(r, &k); err != nil {
			return nil, err
		}
		return a.rekey(ctx, k)
	})
	onAccount("POST /v1/accounts/{a}/suspend", func(ctx context.Context, a *acct, _ *http.Request) (any, error) {
		if err := a.suspendAll(ctx); err != nil {
			return nil, err
		}
		return a.status(ctx)
	})
	onAccount("POST /v1/accounts/{a}/restore-access", func(ctx context.Context, a *acct, _ *http.Request) (any, error) {
		if err := a.restoreAll(ctx); err != nil {
			return nil, err
		}
		return a.status(ctx)
	})
	onAccount("POST /v1/accounts/{a}/volumes", func(ctx context.Context, a *acct, r *http.Request) (any, error) {
		var c api.CreateVolume
		if err := read(r, &c); err != nil {
			return nil, err
		}
		if err := a.createVolume(ctx, c); err != nil {
			return nil, err
		}
		return a.volumeStatus(ctx, c.Name)
	})
	onAccount("DELETE /v1/accounts/{a}/volumes/{v}", func(ctx context.Context, a *acct, r *http.Request) (any, error) {
		return nil, a.deleteVolume(ctx, r.PathValue("v"))
	})
	onMove := func(action string, move func(*acct, context.Context, func(api.MovedVolume)) (api.KeyMoved, error)) {
		mux.HandleFunc("POST /v1/accounts/{a}/"+action, func(w http.ResponseWriter, r *http.Request) {
			a, err := s.account(r.PathValue("a"))
			if err != nil {
				api.WriteError(w, err)
				return
			}
			api.WriteMove(w, func(progress func(api.MovedVolume)) (api.KeyMoved, error) {
				return move(a, context.WithoutCancel(r.Context()), progress) // as above
			})
		})
	}
	onMove(account.MoveRotate, (*acct).rotateKey)
	onMove(account.MoveTransition, (*acct).transition)
	onVolume := func(action string, f func(context.Context, *acct, string, *http.Request) error) {
		onAccount("POST /v1/accounts/{a}/volumes/{v}/"+action, func(ctx context.Context, a *acct, r *http.Request) (any, error) {
			if err := f(ctx, a, r.PathValue("v"), r); err != nil {
				return nil, err
			}
			return a.volumeStatus(ctx, r.PathValue("v"))
		})
	}
	onVolume("mount", func(ctx context.Context, a *acct, v string, r *http.Request) error {
		var m api.Mount
		if err := read(r, &m); err != nil {
			return err
		}
		return a.mountVolume(ctx, v, m)
	})
	onVolume("unmount", func(ctx context.Context, a *acct, v string, r *http.Request) error {
		var u api.Unmount
		if err := read(r, &u); err != nil {
			return err
		}
		return a.unmountVolume(ctx, v, u.Lazy)
	})
	onVolume("suspend", func(ctx context.Context, a *acct, v string, _ *http.Request) error {
		return a.suspendVolume(ctx, v)
	})
	onVolume("restore-access", func(ctx context.Context, a *acct, v string, _ *http.Request) error {
		return a.restoreVolume(ctx, v)
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
}

// read decodes a command's body.
func read(r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return api.Errorf(api.CodeInvalid, fmt.Sprintf("the request is not understood: %v", err))
	}
	return nil
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := read(r, into); err != nil {
		api.WriteError(w, err)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, result any, err error) {
	if err != nil {
		api.WriteError(w, err)
		return
	}
	if result == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// A client that is gone does not read it; nothing can be done about that.
	_ = json.NewEncoder(w).Encode(result)
}

// status says how everything is now.
func (s *Supervisor) status(ctx context.Context) (api.Status, error) {
	st := api.Status{
		PID: os.Getpid(), KeyAgentPID: s.agent.PID(), Goroutines: runtime.NumGoroutine(), Version: s.cfg.Version, Started: s.started,
		Resend: kernelResends(), Accounts: []api.AccountStatus{},
	}
	for _, a := range s.accounts() {
		one, err := a.status(ctx)
		if err != nil {
			return api.Status{}, err
		}
		st.Accounts = append(st.Accounts, one)
	}
	return st, nil
}

// status says how the account and its volumes are now.
func (a *acct) status(ctx context.Context) (api.AccountStatus, error) {
	record := a.record()
	st := api.AccountStatus{Name: a.name, KeySource: record.KeySource(), Unfinished: record.Move, Volumes: []api.VolumeStatus{}}
	if current := record.Current(); current != nil {
		st.KeyID = current.Wrapped.KeyID
	}
	if run := a.runner(); run != nil {
		l := run.Lease()
		st.State, st.Reason, st.Cause, st.Since = string(l.State), l.Reason, string(l.Cause), l.Since
		st.LastCheck, st.LastSuccess, st.LeaseExpires = l.LastCheck, l.LastSuccess, l.Expires
		st.NextAction, st.Warning = l.NextAction(record.Policy), a.follower.warn(l.Warning)
		st.KeyExpires, st.CredentialExpires = l.KeyExpires, l.CredentialExpires
	} else {
		st.State = string(account.StateOnline)
	}
	names, err := a.s.dir.Volumes(a.name)
	if err != nil {
		return st, err
	}
	for _, n := range names {
		v, err := a.volumeStatus(ctx, n)
		if err != nil {
			// It is being deleted, or its record is damaged: it is shown all
			// the same.
			v = api.VolumeStatus{Name: n, State: api.VolumeUnmounted}
		}
		st.Volumes = append(st.Volumes, v)
	}
	return st, nil
}

// kernelResends says whether the kernel can repeat a dead worker's requests:
// Linux 6.9 and newer.
func kernelResends() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 9
}
