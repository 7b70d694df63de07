package emulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Command changes the emulator from outside; Action says how, and which of the
// other fields count. Do and the control endpoint (POST /control, the same as
// JSON) take it.
type Command struct {
	Action string `json:"action"`

	Vault    string `json:"vault,omitempty"`
	Key      string `json:"key,omitempty"`
	Version  string `json:"version,omitempty"` // "" = the newest
	Identity string `json:"identity,omitempty"`

	Managed       *bool  `json:"managed,omitempty"`
	RBAC          *bool  `json:"rbac,omitempty"`
	Region        string `json:"region,omitempty"`
	Cloud         string `json:"cloud,omitempty"`
	RecoveryLevel string `json:"recoveryLevel,omitempty"`
	On            bool   `json:"on,omitempty"` // of firewall and public-access

	Type      string    `json:"type,omitempty"` // RSA, RSA-HSM, EC
	Bits      int       `json:"bits,omitempty"`
	Ops       []string  `json:"ops,omitempty"`
	Enabled   *bool     `json:"enabled,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NoDates   bool      `json:"noDates,omitempty"` // removes both

	Permissions []string      `json:"permissions,omitempty"`
	ResourceID  string        `json:"resourceId,omitempty"`
	Certificate string        `json:"certificate,omitempty"` // PEM
	Assertion   string        `json:"assertion,omitempty"`
	Advance     time.Duration `json:"advance,omitempty"`
	Fault       *Fault        `json:"fault,omitempty"`
}

// The actions of a Command.
const (
	VaultCreate   = "vault-create"   // Vault, Managed, RBAC, Region, Cloud, RecoveryLevel
	VaultSet      = "vault-set"      // the same of an existing vault
	Firewall      = "firewall"       // Vault, On: refuses all addresses
	PublicAccess  = "public-access"  // Vault, On: off refuses all but private links
	KeyCreate     = "key-create"     // Vault, Key, Type, Bits, Ops
	KeySet        = "key-set"        // Vault, Key, Version, Enabled, Expires, NotBefore, NoDates, Ops
	KeyRotate     = "key-rotate"     // Vault, Key
	KeyDelete     = "key-delete"     // Vault, Key
	KeyRecover    = "key-recover"    // Vault, Key
	KeyPurge      = "key-purge"      // Vault, Key
	Grant         = "grant"          // Vault, Identity, Permissions
	Revoke        = "revoke"         // Vault, Identity, Permissions; none = all
	IdentityAdd   = "identity-add"   // Identity, ResourceID
	IdentityClear = "identity-clear" // Identity: it can get no token any more
	IdentityTrust = "identity-trust" // Identity, Certificate or Assertion: it gets a token with that one only
	ClockAdvance  = "clock-advance"  // Advance, which may be negative
	ClockReset    = "clock-reset"
	FaultAdd      = "fault-add" // Fault
	FaultClear    = "fault-clear"
	Show          = "show"
	Used          = "used" // what Emulator.Used returns
)

// Do performs a command and returns what changed, or for Show everything but
// the secrets. The change is stored before Do returns.
func (e *Emulator) Do(c Command) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.Action == Used {
		return e.mu.uses.list(), nil
	}
	result, err := e.mu.state.do(c)
	if err != nil {
		return nil, err
	}
	if c.Action == Show {
		return result, nil
	}
	return result, e.mu.state.save(e.cfg.Dir)
}

func (s *state) do(c Command) (any, error) {
	switch c.Action {
	case VaultCreate:
		return s.createVault(c)
	case IdentityAdd, IdentityClear, IdentityTrust:
		return s.changeIdentity(c)
	case ClockAdvance:
		s.ClockOffset += c.Advance
		return s.now(), nil
	case ClockReset:
		s.ClockOffset = 0
		return s.now(), nil
	case FaultAdd:
		if c.Fault == nil {
			return nil, fmt.Errorf("the fault is missing")
		}
		f := *c.Fault
		if err := f.validate(); err != nil {
			return nil, err
		}
		s.Faults = append(s.Faults, &f)
		return f, nil
	case FaultClear:
		s.Faults = nil
		return "no faults", nil
	case Show:
		return s.show(), nil
	}
	v := s.Vaults[c.Vault]
	if v == nil {
		return nil, fmt.Errorf("there is no vault %q", c.Vault)
	}
	switch c.Action {
	case VaultSet:
		return v.URI(), v.set(c)
	case Firewall:
		v.Firewall = c.On
		return v.URI(), nil
	case PublicAccess:
		v.NoPublicAccess = !c.On
		return v.URI(), nil
	case Grant, Revoke:
		return s.permit(v, c)
	}
	return s.changeKey(v, c)
}

func (s *state) createVault(c Command) (any, error) {
	if len(c.Vault) < 3 || len(c.Vault) > 24 || strings.Trim(c.Vault, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return nil, fmt.Errorf("the vault name %q is not possible", c.Vault)
	}
	if s.Vaults[c.Vault] != nil {
		return nil, fmt.Errorf("the vault %q exists already", c.Vault)
	}
	v := &Vault{Name: c.Vault, Region: "westeurope", RecoveryLevel: "Recoverable", Permissions: map[string]map[string]bool{}, Keys: map[string]*Key{}}
	if err := v.set(c); err != nil {
		return nil, err
	}
	s.Vaults[v.Name] = v
	return v.URI(), nil
}

func (v *Vault) set(c Command) error {
	if c.RecoveryLevel != "" {
		if !slices.Contains(RecoveryLevels, c.RecoveryLevel) {
			return fmt.Errorf("the recovery level is one of %s", strings.Join(RecoveryLevels, ", "))
		}
		v.RecoveryLevel = c.RecoveryLevel
	}
	if _, ok := Clouds[c.Cloud]; !ok {
		return fmt.Errorf("there is no cloud %q", c.Cloud)
	}
	if c.Cloud != "" {
		v.Cloud = c.Cloud
	}
	if c.Region != "" {
		v.Region = c.Region
	}
	if c.RBAC != nil {
		v.RBAC = *c.RBAC
	}
	if c.Managed != nil {
		v.Managed = *c.Managed
	}
	return nil
}

func (s *state) changeKey(v *Vault, c Command) (any, error) {
	if c.Key == "" {
		return nil, fmt.Errorf("the key's name is missing")
	}
	k, deleted := v.Keys[c.Key], v.Deleted[c.Key]
	id := func(k *Key) string { return v.URI() + "keys/" + k.Name + "/" + k.version("").ID }
	switch c.Action {
	case KeyCreate:
		if deleted != nil {
			return nil, fmt.Errorf("the key %q is deleted but recoverable", c.Key)
		}
		if c.Type == "" {
			c.Type = map[bool]string{false: "RSA", true: "RSA-HSM"}[v.Managed]
		}
		n, err := newVersion(c.Type, c.Bits, c.Ops, s.now())
		if err != nil {
			return nil, err
		}
		if k == nil {
			k = &Key{Name: c.Key}
			v.Keys[k.Name] = k
		}
		k.Versions = append(k.Versions, n)
		return id(k), setKey(k, c)
	case KeyRecover, KeyPurge:
		if deleted == nil {
			return nil, fmt.Errorf("there is no deleted key %q", c.Key)
		}
		if c.Action == KeyRecover {
			v.restore(deleted)
			return id(deleted), nil
		}
		if !strings.Contains(v.RecoveryLevel, "Purgeable") {
			return nil, fmt.Errorf("the vault has purge protection")
		}
		delete(v.Deleted, c.Key)
		return "purged", nil
	}
	if k == nil {
		return nil, fmt.Errorf("there is no key %q", c.Key)
	}
	switch c.Action {
	case KeySet:
		return id(k), setKey(k, c)
	case KeyRotate:
		if _, err := rotated(k, s.now()); err != nil {
			return nil, err
		}
		return id(k), nil
	case KeyDelete:
		v.remove(k, s.now())
		return "deleted", nil
	}
	return nil, fmt.Errorf("the action %q is unknown", c.Action)
}

func setKey(k *Key, c Command) error {
	v := k.version(c.Version)
	if v == nil {
		return fmt.Errorf("the key %q has no version %q", k.Name, c.Version)
	}
	if c.NoDates {
		v.NotBefore, v.Expires = time.Time{}, time.Time{}
	}
	if c.Enabled != nil {
		v.Enabled = *c.Enabled
	}
	if !c.Expires.IsZero() {
		v.Expires = c.Expires
	}
	if !c.NotBefore.IsZero() {
		v.NotBefore = c.NotBefore
	}
	if c.Ops != nil {
		v.Ops = c.Ops
	}
	return nil
}

func (s *state) permit(v *Vault, c Command) (any, error) {
	id := s.Identities[c.Identity]
	for _, known := range s.Identities {
		if known.ObjectID == c.Identity { // as az keyvault set-policy takes it
			id = known
		}
	}
	if id == nil {
		return nil, fmt.Errorf("there is no identity %q", c.Identity)
	}
	if c.Action == Revoke && len(c.Permissions) == 0 {
		c.Permissions = Operations
	}
	granted := v.Permissions[id.ObjectID]
	if granted == nil {
		granted = map[string]bool{}
		v.Permissions[id.ObjectID] = granted
	}
	for _, p := range c.Permissions {
		if !slices.Contains(Operations, p) {
			return nil, fmt.Errorf("a permission is one of %s", strings.Join(Operations, ", "))
		}
	}
	for _, p := range c.Permissions {
		if c.Action == Grant {
			granted[p] = true
		} else {
			delete(granted, p)
		}
	}
	if len(granted) == 0 {
		delete(v.Permissions, id.ObjectID)
	}
	return sorted(granted), nil
}

func (s *state) changeIdentity(c Command) (any, error) {
	id := s.Identities[c.Identity]
	switch {
	case c.Identity == "":
		return nil, fmt.Errorf("the identity's name is missing")
	case c.Action != IdentityAdd && id == nil:
		return nil, fmt.Errorf("there is no identity %q", c.Identity)
	case c.Action == IdentityTrust:
		return id, id.trust(c)
	case c.Action == IdentityClear:
		delete(s.Identities, c.Identity)
		return "removed", nil
	case id != nil:
		return nil, fmt.Errorf("the identity %q exists already", c.Identity)
	}
	id = &Identity{Name: c.Identity, System: c.Identity == SystemIdentity, ClientID: uuid.NewString(), ObjectID: uuid.NewString(), ResourceID: c.ResourceID}
	if id.ResourceID == "" && !id.System {
		id.ResourceID = "/subscriptions/" + uuid.NewString() + "/resourceGroups/emulator/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + c.Identity
	}
	s.Identities[id.Name] = id
	return id, nil
}

// show is the state without secrets.
func (s *state) show() any {
	vaults := []any{}
	for _, name := range sorted(s.Vaults) {
		v := s.Vaults[name]
		a := &answer{vault: v}
		keys := map[string]any{}
		for n, k := range v.Keys {
			keys[n] = a.bundle(k, k.version(""))
		}
		permissions := map[string][]string{}
		for _, id := range s.Identities {
			if p := v.Permissions[id.ObjectID]; p != nil {
				permissions[id.Name] = sorted(p)
			}
		}
		vaults = append(vaults, map[string]any{
			"name": v.Name, "uri": v.URI(), "region": v.Region, "rbac": v.RBAC, "recoveryLevel": v.RecoveryLevel, "firewall": v.Firewall,
			"publicAccess": !v.NoPublicAccess, "permissions": permissions, "keys": keys, "deletedKeys": sorted(v.Deleted),
		})
	}
	return map[string]any{"vaults": vaults, "identities": s.Identities, "tenant": s.Tenant, "now": s.now(), "faults": s.Faults}
}

// controlHandler serves tokens and commands. It listens on a loopback address
// only; whoever can reach that is trusted, as with a real host's endpoint.
func (e *Emulator) controlHandler() http.Handler {
	m := e.imdsHandler()
	m.HandleFunc("GET /msi/token", func(w http.ResponseWriter, r *http.Request) { e.tokenRequest(w, r, false) })
	m.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, e.Env()) })
	m.HandleFunc("POST /control", func(w http.ResponseWriter, r *http.Request) {
		var c Command
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		result, err := e.Do(c)
		if err != nil {
			writeJSON(w, http.StatusUnprocessableEntity, map[string]string{"error": err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"result": result})
	})
	return m
}

// imdsHandler serves tokens as a virtual machine's metadata service does.
func (e *Emulator) imdsHandler() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("GET /metadata/identity/oauth2/token", func(w http.ResponseWriter, r *http.Request) { e.tokenRequest(w, r, true) })
	return m
}

// tokenRequest is the token endpoint with its faults: those for the operation
// "token" of any vault.
func (e *Emulator) tokenRequest(w http.ResponseWriter, r *http.Request, imds bool) {
	e.mu.Lock()
	e.mu.requests["token"]++
	var fault *Fault
	for _, f := range e.mu.state.Faults {
		if f.Op == "token" {
			fault = e.mu.state.take("", "token", false)
			break
		}
	}
	e.mu.Unlock()
	switch {
	case fault == nil:
	case fault.bends():
		whole, out := &recorder{ResponseWriter: w}, w
		w = whole
		defer func() { e.bend(fault, out, r, whole) }()
	case e.apply(fault, w, r):
		return
	}
	e.serveToken(w, r, imds)
}
