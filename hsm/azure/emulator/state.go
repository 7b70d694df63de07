package emulator

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"
)

// state is everything that survives a restart: the file state.json.
type state struct {
	Tenant         string               `json:"tenant"`
	IdentityHeader string               `json:"identityHeader"` // the secret of the App Service endpoint
	TokenKey       []byte               `json:"tokenKey"`       // signs tokens
	ClockOffset    time.Duration        `json:"clockOffset"`
	Vaults         map[string]*Vault    `json:"vaults"`
	Identities     map[string]*Identity `json:"identities"`
	Faults         []*Fault             `json:"faults,omitempty"`
	ControlAddr    string               `json:"controlAddr,omitempty"`
	VaultAddr      string               `json:"vaultAddr,omitempty"`
	PrivateAddr    string               `json:"privateAddr,omitempty"`
}

// Vault is one Key Vault or Managed HSM.
type Vault struct {
	Name    string `json:"name"`
	Managed bool   `json:"managed,omitempty"` // Managed HSM
	Cloud   string `json:"cloud,omitempty"`   // one of Clouds; "" = public
	Region  string `json:"region"`
	RBAC    bool   `json:"rbac,omitempty"` // roles instead of access policies
	// RecoveryLevel is reported with every key; one with "Purgeable" in it lets
	// deleted keys be purged.
	RecoveryLevel string `json:"recoveryLevel"`
	// Firewall refuses every address; NoPublicAccess likewise, with another
	// inner code.
	Firewall       bool                       `json:"firewall,omitempty"`
	NoPublicAccess bool                       `json:"noPublicAccess,omitempty"`
	Permissions    map[string]map[string]bool `json:"permissions"` // identity's object id to operations
	Keys           map[string]*Key            `json:"keys"`
	Deleted        map[string]*Key            `json:"deleted,omitempty"`
}

// Clouds are the names of Azure's clouds, each with its domain and authority.
var Clouds = map[string]struct{ domain, authority string }{
	"":      {"azure.net", "login.microsoftonline.com"},
	"china": {"azure.cn", "login.chinacloudapi.cn"},
	"usgov": {"usgovcloudapi.net", "login.microsoftonline.us"},
}

// domain is what a vault's name goes before, and what its tokens are for.
func (v *Vault) domain() string {
	if v.Managed {
		return "managedhsm." + Clouds[v.Cloud].domain
	}
	return "vault." + Clouds[v.Cloud].domain
}

// Host is the name under which the vault is reached.
func (v *Vault) Host() string { return v.Name + "." + v.domain() }

// URI is what a client is configured with.
func (v *Vault) URI() string { return "https://" + v.Host() + "/" }

// Key is a named key with its versions, the oldest first.
type Key struct {
	Name      string          `json:"name"`
	Versions  []*Version      `json:"versions"`
	Policy    json.RawMessage `json:"rotationPolicy,omitempty"`
	DeletedAt time.Time       `json:"deletedAt,omitzero"`
}

// Version is one version of a key.
type Version struct {
	ID        string            `json:"id"` // 32 hexadecimal digits
	Type      string            `json:"kty"`
	Ops       []string          `json:"key_ops"`
	Enabled   bool              `json:"enabled"`
	NotBefore time.Time         `json:"nbf,omitzero"`
	Expires   time.Time         `json:"exp,omitzero"`
	Created   time.Time         `json:"created"`
	Updated   time.Time         `json:"updated"`
	Tags      map[string]string `json:"tags,omitempty"`
	PKCS8     []byte            `json:"pkcs8,omitempty"` // an RSA private key; absent for other types
}

// Identity is a managed identity that can get tokens.
type Identity struct {
	Name       string `json:"name"`
	System     bool   `json:"system,omitempty"` // system-assigned
	ClientID   string `json:"clientId"`
	ObjectID   string `json:"objectId"`
	ResourceID string `json:"resourceId,omitempty"`
	// Certificate is the one an application has to prove itself with, as DER,
	// Assertion the token of a federated one; without either any proof is taken.
	Certificate []byte `json:"certificate,omitempty"`
	Assertion   string `json:"assertion,omitempty"`
}

// SystemIdentity is the name of the system-assigned identity.
const SystemIdentity = "system"

func newState() *state {
	s := &state{
		Tenant: uuid.NewString(), IdentityHeader: uuid.NewString(), TokenKey: make([]byte, 32),
		Vaults: map[string]*Vault{}, Identities: map[string]*Identity{},
	}
	rand.Read(s.TokenKey)
	s.Identities[SystemIdentity] = &Identity{Name: SystemIdentity, System: true, ClientID: uuid.NewString(), ObjectID: uuid.NewString()}
	return s
}

// loadState reads the directory's state; a directory without any is new.
func loadState(dir string) (*state, error) {
	b, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return newState(), nil
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("state.json: %w", err)
	}
	if s.Vaults == nil || s.Identities == nil || len(s.TokenKey) == 0 {
		return nil, errors.New("state.json: incomplete")
	}
	return &s, nil
}

func (s *state) save(dir string) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, "state.json"), b, 0o600)
}

// newVersion makes a version with new key material.
func newVersion(kty string, bits int, ops []string, now time.Time) (*Version, error) {
	v := &Version{ID: newVersionID(), Type: kty, Ops: ops, Enabled: true, Created: now, Updated: now}
	if v.Ops == nil {
		v.Ops = []string{"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"}
	}
	switch kty {
	case "RSA", "RSA-HSM":
		if bits == 0 {
			bits = 2048
		}
		if bits < 1024 || bits > 4096 {
			return nil, fmt.Errorf("key size %d is not possible", bits)
		}
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		return v, v.setPrivate(k)
	case "EC", "EC-HSM", "oct-HSM": // without material: it can only be looked at
		return v, nil
	}
	return nil, fmt.Errorf("key type %q is not possible", kty)
}

func newVersionID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func (v *Version) setPrivate(k *rsa.PrivateKey) (err error) {
	v.PKCS8, err = x509.MarshalPKCS8PrivateKey(k)
	return err
}

// private returns the RSA key, nil if the version has none.
func (v *Version) private() (*rsa.PrivateKey, error) {
	if len(v.PKCS8) == 0 {
		return nil, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(v.PKCS8)
	if err != nil {
		return nil, err
	}
	r, ok := k.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T is no RSA key", k)
	}
	return r, nil
}

// version returns the version with the id, the newest for ""; nil if there is
// none.
func (k *Key) version(id string) *Version {
	if id == "" {
		return k.Versions[len(k.Versions)-1]
	}
	for _, v := range k.Versions {
		if v.ID == id {
			return v
		}
	}
	return nil
}
