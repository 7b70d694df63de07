package hsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// SoftHSMModule is where Debian has the library.
const SoftHSMModule = "/usr/lib/softhsm/libsofthsm2.so"

// Token is a SoftHSM token in a directory of its own, made with SoftHSM's and
// OpenSC's tools and not with our code. Its label is "drill".
type Token struct {
	Dir     string // has softhsm2.conf, tokens/ and pin
	PINFile string
	Module  string // the library that URI names
}

// PIN is the user PIN of a Token.
const PIN = "739158"

// NewToken makes a token with an RSA key "good" of 2048 bits and points
// SOFTHSM2_CONF at it for the rest of the test.
func NewToken(t *testing.T) *Token {
	t.Helper()
	k := &Token{Dir: t.TempDir(), Module: SoftHSMModule}
	k.configure(t)
	run(t, "softhsm2-util", "--init-token", "--free", "--label", "drill", "--so-pin", "so-"+PIN, "--pin", PIN)
	if err := os.WriteFile(k.PINFile, []byte(PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.AddKey(t, "good", "01", "rsa:2048", "--usage-decrypt")
	return k
}

// Copy is the same token in another directory, to which SOFTHSM2_CONF points
// then.
func (k *Token) Copy(t *testing.T) *Token {
	t.Helper()
	c := &Token{Dir: t.TempDir(), Module: k.Module}
	if err := os.CopyFS(c.Dir, os.DirFS(k.Dir)); err != nil {
		t.Fatal(err)
	}
	c.configure(t)
	return c
}

func (k *Token) configure(t *testing.T) {
	t.Helper()
	k.PINFile = filepath.Join(k.Dir, "pin")
	conf := filepath.Join(k.Dir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", k.tokens())
	if err := os.MkdirAll(k.tokens(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
}

func (k *Token) tokens() string { return filepath.Join(k.Dir, "tokens") }

// AddKey generates a key pair; usage are flags of pkcs11-tool.
func (k *Token) AddKey(t *testing.T, label, id, kind string, usage ...string) {
	t.Helper()
	run(t, "pkcs11-tool", append([]string{"--module", SoftHSMModule, "--token-label", "drill", "--login", "--pin", PIN,
		"--keypairgen", "--key-type", kind, "--label", label, "--id", id}, usage...)...)
}

// AddToken makes another token beside this one, with an RSA key "other", and
// returns its serial number. Its label may be that of the first.
func (k *Token) AddToken(t *testing.T, label string) (serial string) {
	t.Helper()
	out := run(t, "softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "so-"+PIN, "--pin", PIN)
	_, slot, _ := strings.Cut(strings.TrimSpace(out), "reassigned to slot ")
	run(t, "pkcs11-tool", "--module", SoftHSMModule, "--slot", slot, "--login", "--pin", PIN,
		"--keypairgen", "--key-type", "rsa:2048", "--label", "other", "--id", "0a", "--usage-decrypt")
	_, after, _ := strings.Cut(run(t, "pkcs11-tool", "--module", SoftHSMModule, "--list-slots"), fmt.Sprintf("(0x%x)", number(t, slot)))
	_, after, _ = strings.Cut(after, "serial num")
	if serial = strings.TrimLeft(after, " :"); serial == "" {
		t.Fatalf("the new token in slot %s is not listed", slot)
	}
	return strings.Fields(serial)[0]
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// RemoveKey deletes both halves of a key.
func (k *Token) RemoveKey(t *testing.T, id string) {
	t.Helper()
	for _, kind := range []string{"privkey", "pubkey"} {
		run(t, "pkcs11-tool", "--module", SoftHSMModule, "--token-label", "drill", "--login", "--pin", PIN,
			"--delete-object", "--type", kind, "--id", id)
	}
}

// Remove takes the token's files away, as pulling a token out does.
func (k *Token) Remove(t *testing.T) { rename(t, k.tokens(), k.tokens()+".away"); mkdir(t, k.tokens()) }

// Return undoes Remove.
func (k *Token) Return(t *testing.T) {
	if err := os.Remove(k.tokens()); err != nil {
		t.Fatal(err)
	}
	rename(t, k.tokens()+".away", k.tokens())
}

// SetPIN writes the content of the PIN file.
func (k *Token) SetPIN(t *testing.T, content string) {
	t.Helper()
	if err := os.WriteFile(k.PINFile, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// URI names a key of the token.
func (k *Token) URI(object string) string {
	return "pkcs11:token=drill;object=" + object + "?module-path=" + k.Module + "&pin-source=file:" + k.PINFile
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// ChangePIN changes the token's PIN, not the file.
func (k *Token) ChangePIN(t *testing.T, pin string) {
	t.Helper()
	run(t, "pkcs11-tool", "--module", SoftHSMModule, "--token-label", "drill", "--login", "--pin", PIN, "--change-pin", "--new-pin", pin)
}
