package pkcs11

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/scrypt"
)

// pinGuard remembers the PINs that a token refused, in memory and, if it has a
// directory, in a file that outlives the process. What is kept is a salted
// scrypt hash of the PIN file's content: enough to know the same content again,
// and no quicker to search than the token's own check for whoever can read a
// file of mode 0600 beside the PIN itself.
type pinGuard struct {
	dir   string // "" = memory only
	token string // module and token, as a file name
}

// refusedPINs is the content of a marker file.
type refusedPINs struct {
	Salt   []byte   `json:"salt"`
	Hashes [][]byte `json:"hashes"` // the oldest first, at most maxRefused
}

const maxRefused = 32

// remembered holds the refused PINs of tokens for which no file is kept: there
// is no directory, or writing the file failed.
var remembered struct {
	sync.Mutex
	tokens map[string]refusedPINs
}

func newPINGuard(dir, module, label, serial string) pinGuard {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", module, label, serial))
	return pinGuard{dir: dir, token: hex.EncodeToString(sum[:12])}
}

func (g pinGuard) path() string { return filepath.Join(g.dir, "refused-pins", g.token+".json") }

func (g pinGuard) hash(r refusedPINs, content []byte) ([]byte, error) {
	return scrypt.Key(content, r.Salt, 1<<15, 8, 1, 32)
}

func (g pinGuard) load() (refusedPINs, error) {
	remembered.Lock()
	r, ok := remembered.tokens[g.token]
	remembered.Unlock()
	if ok || g.dir == "" {
		return r, nil
	}
	b, err := os.ReadFile(g.path())
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("reading refused PINs: %w", err)
	}
	return r, nil
}

// refused reports whether the token has refused this content before. An error
// means that it is not known, and the PIN must not be tried then.
func (g pinGuard) refused(content []byte) (bool, error) {
	r, err := g.load()
	if err != nil || len(r.Hashes) == 0 {
		return false, err
	}
	h, err := g.hash(r, content)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(r.Hashes, func(old []byte) bool { return bytes.Equal(old, h) }), nil
}

// refuse records that the token refused this content. It is called before
// anything else is done with the token's answer; a process killed in between
// costs one more attempt.
func (g pinGuard) refuse(content []byte) error {
	r, err := g.load()
	if err != nil || len(r.Salt) == 0 {
		r = refusedPINs{Salt: make([]byte, 16)}
		rand.Read(r.Salt)
	}
	h, err := g.hash(r, content)
	if err != nil {
		return err
	}
	r.Hashes = append(r.Hashes, h)
	if n := len(r.Hashes); n > maxRefused {
		r.Hashes = r.Hashes[n-maxRefused:]
	}
	if g.dir != "" {
		if err = g.write(r); err == nil {
			return nil
		}
	}
	remembered.Lock()
	defer remembered.Unlock()
	if remembered.tokens == nil {
		remembered.tokens = map[string]refusedPINs{}
	}
	remembered.tokens[g.token] = r
	return err
}

func (g pinGuard) write(r refusedPINs) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(g.path()), 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(g.path(), b, 0o600) // with fsync, replaced in one step
}
