package emulator

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Config says where the emulator lives.
type Config struct {
	Dir     string       // made if missing
	Listen  string       // of the vaults, TLS; "" = 127.0.0.1 and the last port, or a free one
	Private string       // of the same vaults by private link; "" = likewise
	IMDS    string       // of the virtual machine's token endpoint, for a network of its own: 169.254.169.254:80; "" = none
	Control string       // of tokens and control, must be a loopback address; "" = likewise
	Log     *slog.Logger // of requests; nil = none
}

// Emulator is a running emulator.
type Emulator struct {
	cfg     Config
	vaults  net.Listener
	private net.Listener
	control net.Listener
	imds    net.Listener // nil = none
	servers []*http.Server
	done    sync.WaitGroup
	closing chan struct{} // ends requests that wait on purpose
	once    sync.Once     // closes it
	mu      struct {
		sync.Mutex
		state    *state
		requests map[string]int // operations served, by name; for tests
		uses     uses
	}
}

// Start opens the directory and serves until Close. A new directory gets a
// system-assigned identity and nothing else.
func Start(cfg Config) (*Emulator, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	s, err := loadState(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cert, err := serverCertificate(cfg.Dir)
	if err != nil {
		return nil, err
	}
	e := &Emulator{cfg: cfg, closing: make(chan struct{})}
	e.mu.state, e.mu.requests, e.mu.uses = s, map[string]int{}, uses{}
	if err := e.listen(s); err != nil {
		return nil, err
	}
	if err := s.save(cfg.Dir); err != nil {
		e.closeListeners()
		return nil, err
	}
	secure := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if e.refused(h.ServerName) {
				return nil, errors.New("refused by a fault")
			}
			return &cert, nil
		},
	}
	for link, l := range map[bool]net.Listener{false: e.vaults, true: e.private} {
		e.serve(tls.NewListener(l, secure), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serveVault(w, r, link) }))
	}
	e.serve(e.control, e.controlHandler())
	if e.imds != nil {
		e.serve(e.imds, e.imdsHandler())
	}
	return e, nil
}

// listen opens the three addresses and notes them in the state.
func (e *Emulator) listen(s *state) (err error) {
	for _, l := range []struct {
		to   *net.Listener
		addr string
		last *string
	}{{&e.vaults, e.cfg.Listen, &s.VaultAddr}, {&e.private, e.cfg.Private, &s.PrivateAddr}, {&e.control, e.cfg.Control, &s.ControlAddr}} {
		if *l.to, err = listen(l.addr, *l.last); err != nil {
			e.closeListeners()
			return err
		}
		*l.last = (*l.to).Addr().String()
	}
	if e.cfg.IMDS != "" {
		if e.imds, err = net.Listen("tcp", e.cfg.IMDS); err != nil {
			e.closeListeners()
			return err
		}
	}
	if !e.control.Addr().(*net.TCPAddr).IP.IsLoopback() {
		e.closeListeners()
		return fmt.Errorf("the control address %s is not a loopback address", e.cfg.Control)
	}
	return nil
}

func (e *Emulator) closeListeners() {
	for _, l := range []net.Listener{e.vaults, e.private, e.control, e.imds} {
		if l != nil {
			l.Close()
		}
	}
}

// listen opens addr, or the last one again, or any.
func listen(addr, last string) (net.Listener, error) {
	if addr == "" && last != "" {
		if l, err := net.Listen("tcp", last); err == nil {
			return l, nil
		}
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	return net.Listen("tcp", addr)
}

func (e *Emulator) serve(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(e.cfg.Log.Handler(), slog.LevelDebug), ReadHeaderTimeout: 10 * time.Second}
	e.servers = append(e.servers, s)
	e.done.Add(1)
	go func() {
		defer e.done.Done()
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			e.cfg.Log.Error("emulator stopped serving", "addr", l.Addr(), "err", err)
		}
	}()
}

// Close ends all connections and waits for the listeners. It may be called again.
func (e *Emulator) Close() error {
	e.once.Do(func() { close(e.closing) })
	for _, s := range e.servers {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
		cancel()
	}
	e.done.Wait()
	return nil
}

// Endpoint is IP:PORT of the vaults' public address, which a client can be sent
// to as if it were a private endpoint.
func (e *Emulator) Endpoint() string { return e.vaults.Addr().String() }

// PrivateEndpoint is IP:PORT of the vaults by private link: the firewall and the
// public access do not count there.
func (e *Emulator) PrivateEndpoint() string { return e.private.Addr().String() }

// CA is the path of the certificate authority's file.
func (e *Emulator) CA() string { return filepath.Join(e.cfg.Dir, CAFile) }

// Env is the environment of a client: the managed identity's token endpoint,
// and, for scripts, where the rest is.
func (e *Emulator) Env() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	control := "http://" + e.control.Addr().String()
	_, port, _ := net.SplitHostPort(e.Endpoint()) // of an address that is listened at
	authority := "https://localhost:" + port + "/"
	env := map[string]string{
		"IDENTITY_ENDPOINT":          control + "/msi/token",
		"IDENTITY_HEADER":            e.mu.state.IdentityHeader,
		"KEYVAULT_EMULATOR_ENDPOINT": e.Endpoint(),
		"KEYVAULT_EMULATOR_PRIVATE":  e.PrivateEndpoint(),
		"KEYVAULT_EMULATOR_CA":       e.CA(),
		"KEYVAULT_EMULATOR_CONTROL":  control,
		"KEYVAULT_EMULATOR_TENANT":   e.mu.state.Tenant,
		// As AZURE_AUTHORITY_HOST for a certificate or a federated identity.
		"KEYVAULT_EMULATOR_AUTHORITY": authority,
	}
	// The first vault and its first key, for the usual case of one.
	if names := sorted(e.mu.state.Vaults); len(names) > 0 {
		v := e.mu.state.Vaults[names[0]]
		env["KEYVAULT_EMULATOR_VAULT_URI"] = v.URI()
		if keys := sorted(v.Keys); len(keys) > 0 {
			env["KEYVAULT_EMULATOR_KEY_URI"] = v.URI() + "keys/" + keys[0]
		}
	}
	return env
}

// Requests says how often an operation (get, decrypt, token …) was served or
// failed on purpose.
func (e *Emulator) Requests(op string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.requests[op]
}

// now is the emulated time.
func (s *state) now() time.Time { return time.Now().Add(s.ClockOffset).UTC().Truncate(time.Second) }

func (e *Emulator) refused(host string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	name, _, _ := strings.Cut(host, ".")
	return e.mu.state.take(name, "", true) != nil
}

// serveVault is every request to a vault: what is asked for, whether it fails on
// purpose, who asks, whether the network and the vault let them, and the answer.
// link says that it came by private link.
func (e *Emulator) serveVault(w http.ResponseWriter, r *http.Request, link bool) {
	h := w.Header()
	id := uuid.NewString()
	h.Set("x-ms-request-id", id)
	h.Set("x-ms-keyvault-service-version", "1.9.2488.1")
	h.Set("x-ms-keyvault-network-info", map[bool]string{false: "conn_type=Ipv4;", true: "conn_type=PrivateLink;private_endpoint=emulator;"}[link]+"addr=127.0.0.1;act_addr_fam=InterNetwork;")
	h.Set("Cache-Control", "no-cache")
	h.Set("Strict-Transport-Security", "max-age=31536000;includeSubDomains")
	host, _, _ := strings.Cut(r.Host, ":")
	if isAuthority(host) {
		e.serveAuthority(w, r)
		return
	}
	name, _, _ := strings.Cut(host, ".")

	q := parseRequest(r)
	e.mu.Lock()
	e.mu.requests[q.op]++
	fault := e.mu.state.take(name, q.op, false)
	e.mu.Unlock()
	e.cfg.Log.Info("request", "vault", name, "op", q.op, "key", q.key, "request", id)
	switch {
	case fault == nil:
	case fault.bends():
		whole, out := &recorder{ResponseWriter: w}, w
		w = whole
		defer func() { e.bend(fault, out, r, whole) }()
	case e.apply(fault, w, r):
		return
	}
	// Reading the body may take long, so it comes before the lock.
	body, err := readBody(w, r)

	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.mu.state.Vaults[name]
	switch {
	case v == nil || !strings.EqualFold(v.Host(), host):
		fail(w, http.StatusNotFound, "VaultNotFound", "", "The vault "+name+" does not exist here")
		return
	case q.op == "":
		fail(w, http.StatusNotFound, "NotFound", "", "There is nothing at "+r.Method+" "+r.URL.Path)
		return
	}
	if !v.Managed { // which spans regions
		h.Set("x-ms-keyvault-region", v.Region)
	}
	if q.op == "healthstatus" {
		w.WriteHeader(http.StatusOK)
		return
	}
	who, c, ok := e.authenticate(w, r, v)
	if !ok {
		return
	}
	if r.URL.Query().Get("api-version") == "" {
		fail(w, http.StatusBadRequest, "BadParameter", "", "api-version must be specified")
		return
	}
	e.mu.uses.note(v, who, q.op)
	if !link && !v.reachable(w, c) || !v.permitted(w, who, q.op, c) {
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "BadParameter", "", "The body is not valid JSON: "+err.Error())
		return
	}
	a := &answer{w: w, vault: v, q: q, body: body, now: e.mu.state.now()}
	if changed := a.serve(); changed {
		if err := e.mu.state.save(e.cfg.Dir); err != nil {
			e.cfg.Log.Error("state was not saved", "err", err)
		}
	}
}

// authenticate answers 401 with the challenge unless there is a good token.
func (e *Emulator) authenticate(w http.ResponseWriter, r *http.Request, v *Vault) (*Identity, claims, bool) {
	audience := "https://" + v.domain()
	challenge := fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="%s"`, Clouds[v.Cloud].authority, e.mu.state.Tenant, audience)
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		w.Header().Set("WWW-Authenticate", challenge)
		fail(w, http.StatusUnauthorized, "Unauthorized", "", "AKV10000: Request is missing a Bearer or PoP token.")
		return nil, claims{}, false
	}
	id, c, err := e.mu.state.identify(token, audience, time.Now())
	if err != nil {
		w.Header().Set("WWW-Authenticate", challenge)
		fail(w, http.StatusUnauthorized, "Unauthorized", "", err.Error())
		return nil, claims{}, false
	}
	return id, c, true
}

// fail writes a vault's error.
func fail(w http.ResponseWriter, status int, code, inner, message string) {
	e := map[string]any{"code": code, "message": message}
	if inner != "" {
		e["innererror"] = map[string]string{"code": inner}
	}
	writeJSON(w, status, map[string]any{"error": e})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only maps of our own making come here
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}
