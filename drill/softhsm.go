package drill

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// softHSM is where distributions have the library.
var softHSM = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"}

// token is a SoftHSM token with one key, and a copy of the library of its own.
type token struct {
	dir     string
	conf    string // for SOFTHSM2_CONF
	module  string
	pinFile string
	pin     string
}

const (
	tokenLabel = "drill"
	tokenKey   = "cmk"
)

// newToken makes a token in a new directory, with SoftHSM's own tool.
func newToken(dir string) (*token, error) {
	library, err := findSoftHSM()
	if err != nil {
		return nil, err
	}
	t := &token{dir: dir, conf: filepath.Join(dir, "softhsm2.conf"), module: filepath.Join(dir, "module.so"), pinFile: filepath.Join(dir, "pin"), pin: digits()}
	if err := os.MkdirAll(t.tokens(), 0o700); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", t.tokens())
	if err := os.WriteFile(t.conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(t.pinFile, []byte(t.pin+"\n"), 0o600); err != nil {
		return nil, err
	}
	code, err := os.ReadFile(library)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(t.module, code, 0o700); err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(file)
	// The PINs show in the process list for a moment: this token protects nothing.
	if err := t.tool("softhsm2-util", "--init-token", "--free", "--label", tokenLabel, "--so-pin", t.pin+t.pin, "--pin", t.pin); err != nil {
		return nil, err
	}
	return t, t.tool("softhsm2-util", "--import", file, "--token", tokenLabel, "--label", tokenKey, "--id", "01", "--pin", t.pin)
}

// findSoftHSM returns the library's path.
func findSoftHSM() (string, error) {
	for _, pattern := range softHSM {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("SoftHSM is not installed (Debian: softhsm2)")
}

// tool runs one of the tools for tokens.
func (t *token) tool(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+t.conf)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed (Debian: softhsm2, opensc)", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (t *token) tokens() string { return filepath.Join(t.dir, "tokens") }

func (t *token) uri() string {
	return "pkcs11:token=" + tokenLabel + ";object=" + tokenKey + "?module-path=" + t.module + "&pin-source=file:" + t.pinFile
}

// remove is the token pulled out.
func (t *token) remove() error {
	if err := os.Rename(t.tokens(), t.tokens()+".away"); err != nil {
		return err
	}
	return os.Mkdir(t.tokens(), 0o700)
}

// giveBack undoes remove, and wipe.
func (t *token) giveBack() error {
	if err := os.RemoveAll(t.tokens()); err != nil {
		return err
	}
	return os.Rename(t.tokens()+".away", t.tokens())
}

// wipe deletes the token's files under a library that may be running.
func (t *token) wipe() error {
	if err := os.CopyFS(t.tokens()+".away", os.DirFS(t.tokens())); err != nil {
		return err
	}
	entries, err := os.ReadDir(t.tokens())
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(t.tokens(), e.Name())))
	}
	return err
}

// changePIN changes the token's PIN, not the file.
func (t *token) changePIN() error {
	old, now := t.pin, digits()
	if err := t.tool("pkcs11-tool", "--module", t.module, "--token-label", tokenLabel, "--login", "--pin", old, "--change-pin", "--new-pin", now); err != nil {
		return err
	}
	t.pin = now
	return nil
}

// tellPIN writes the token's PIN into the file.
func (t *token) tellPIN() error { return os.WriteFile(t.pinFile, []byte(t.pin+"\n"), 0o600) }

// The attributes that let a private key unwrap, in SoftHSM's object files: type,
// kind (1 = bool) and value, 8, 8 and 1 bytes, big-endian, true being ff.
var unwrapping = [][]byte{
	{0, 0, 0, 0, 0, 0, 0x01, 0x05, 0, 0, 0, 0, 0, 0, 0, 0x01}, // CKA_DECRYPT
	{0, 0, 0, 0, 0, 0, 0x01, 0x07, 0, 0, 0, 0, 0, 0, 0, 0x01}, // CKA_UNWRAP
}

// permit lets every key of the token decrypt, or not.
func (t *token) permit(yes bool) error {
	from, to := byte(0xff), byte(0)
	if yes {
		from, to = to, from
	}
	changed := 0
	err := filepath.WalkDir(t.tokens(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".object" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, attribute := range unwrapping {
			if i := bytes.Index(b, append(bytes.Clone(attribute), from)); i >= 0 {
				b[i+len(attribute)] = to
				changed++
			}
		}
		return os.WriteFile(path, b, 0o600)
	})
	if err == nil && changed == 0 {
		err = errors.New("the token's files have no key that could be changed")
	}
	return err
}

// Machine code that a broken library consists of.
var (
	crashing = map[string][]byte{"amd64": {0x0f, 0x0b}, "arm64": {0, 0, 0, 0}}    // an invalid instruction
	hanging  = map[string][]byte{"amd64": {0xeb, 0xfe}, "arm64": {0, 0, 0, 0x14}} // a jump to itself
)

// spoil replaces the library by one that does the same thing whatever is
// called. Processes that have loaded the old one keep it.
func (t *token) spoil(code []byte) error {
	if code == nil {
		return fmt.Errorf("there is no broken library for %s", runtime.GOARCH)
	}
	b, err := os.ReadFile(t.module)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s: %w", t.module, err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X == 0 {
			continue
		}
		for at := p.Off; at+uint64(len(code)) <= p.Off+p.Filesz; at += uint64(len(code)) {
			copy(b[at:], code)
		}
	}
	if err := os.Rename(t.module, t.module+".good"); err != nil {
		return err
	}
	return os.WriteFile(t.module, b, 0o700)
}

// mend undoes spoil.
func (t *token) mend() error { return os.Rename(t.module+".good", t.module) }

// digits is a new PIN.
func digits() string {
	b := make([]byte, 4)
	rand.Read(b)
	return hex.EncodeToString(b)
}
