package crypto_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"cmkfs/crypto"
)

func TestKey_NeverPrints(t *testing.T) {
	k := crypto.NewKey()
	holder := struct {
		Key crypto.Key
		Ptr *crypto.Key
	}{k, &k}
	secret := []string{hex.EncodeToString(k[:8]), strings.Trim(fmt.Sprint([]byte(k[:8])), "[]"), string(k[:8])}
	check := func(what, s string) {
		t.Helper()
		for _, leak := range secret {
			if strings.Contains(strings.ToLower(s), leak) {
				t.Errorf("%s prints the key: %q", what, s)
			}
		}
		if !strings.Contains(s, "[redacted]") {
			t.Errorf("%s = %q, want [redacted]", what, s)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%64x"} {
		check(verb, fmt.Sprintf(verb, k))
		check(verb+" pointer", fmt.Sprintf(verb, &k))
		check(verb+" box", fmt.Sprintf(verb, crypto.NewBox(k)))
		check(verb+" sequence", fmt.Sprintf(verb, crypto.NewSequence(k)))
		check(verb+" names", fmt.Sprintf(verb, crypto.NewNameHasher(k)))
		check(verb+" sets", fmt.Sprintf(verb, crypto.NewSetHasher(k)))
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		check(verb+" in a struct", fmt.Sprintf(verb, holder.Key))
		check(verb+" in a struct", fmt.Sprintf(verb, struct{ K crypto.Key }{k}))
		check(verb+" in a slice", fmt.Sprintf(verb, []crypto.Key{k}))
		check(verb+" in a map", fmt.Sprintf(verb, map[string]crypto.Key{"a": k}))
	}
	check("String", k.String())
	check("GoString", k.GoString())
	j, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	check("JSON", string(j))
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "struct", struct{ K crypto.Key }{k})
	check("slog text", log.String())
	log.Reset()
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "ptr", &k)
	check("slog JSON", log.String())
}

func TestKey_IsNotReadFromText(t *testing.T) {
	var k crypto.Key
	if err := json.Unmarshal([]byte(`"[redacted]"`), &k); err == nil {
		t.Error("a key was read from JSON")
	}
}

func TestKeyFromBytes(t *testing.T) {
	want := crypto.NewKey()
	if k, err := crypto.KeyFromBytes(want[:]); err != nil || !k.Equal(want) {
		t.Errorf("round trip failed: %v", err)
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := crypto.KeyFromBytes(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
	if want.Equal(crypto.NewKey()) {
		t.Error("two random keys are equal")
	}
}

func TestDerive_SeparatesArguments(t *testing.T) {
	k := crypto.Key{1}
	seen := map[crypto.Key]string{}
	add := func(what string, d crypto.Key) {
		if old, dup := seen[d]; dup {
			t.Errorf("%s and %s share a key", what, old)
		}
		seen[d] = what
	}
	add("ab", crypto.Derive(k, "ab"))
	add("a,b", crypto.Derive(k, "a", []byte("b")))
	add("'',ab", crypto.Derive(k, "", []byte("ab")))
	add("ab,''", crypto.Derive(k, "ab", nil))
	add("ab,'',''", crypto.Derive(k, "ab", nil, nil))
	add("x,ab,c", crypto.Derive(k, "x", []byte("ab"), []byte("c")))
	add("x,a,bc", crypto.Derive(k, "x", []byte("a"), []byte("bc")))
	add("other key", crypto.Derive(crypto.Key{2}, "ab"))
	if first, again := crypto.Derive(k, "ab"), crypto.Derive(k, "ab"); first != again {
		t.Error("not deterministic")
	}
}

func TestCommit(t *testing.T) {
	k, ctx := crypto.NewKey(), []byte("volume")
	c := crypto.Commit(k, ctx)
	if len(c) != crypto.CommitSize || !crypto.CheckCommit(k, ctx, c) {
		t.Fatal("the key's own commitment is refused")
	}
	if crypto.CheckCommit(crypto.NewKey(), ctx, c) || crypto.CheckCommit(k, []byte("other"), c) || crypto.CheckCommit(k, ctx, c[:31]) || crypto.CheckCommit(k, ctx, nil) {
		t.Error("a wrong key, context or length is accepted")
	}
}

func TestSealKey(t *testing.T) {
	wrapping, k, ad := crypto.NewKey(), crypto.NewKey(), []byte("volume 1")
	s := crypto.SealKey(wrapping, k, ad)
	if len(s) != crypto.SealedKeySize {
		t.Fatalf("sealed key has %d bytes", len(s))
	}
	if got, err := crypto.OpenKey(wrapping, s, ad); err != nil || !got.Equal(k) {
		t.Fatalf("round trip failed: %v", err)
	}
	wrong := func(what string, w crypto.Key, s, ad []byte) {
		t.Helper()
		if _, err := crypto.OpenKey(w, s, ad); !errors.Is(err, crypto.ErrAuth) {
			t.Errorf("%s: err = %v, want ErrAuth", what, err)
		}
	}
	wrong("other key", crypto.NewKey(), s, ad)
	wrong("other ad", wrapping, s, []byte("volume 2"))
	wrong("short", wrapping, s[:len(s)-1], ad)
	wrong("long", wrapping, append(bytes.Clone(s), 0), ad)
	wrong("empty", wrapping, nil, ad)
	for i := range s {
		bad := bytes.Clone(s)
		bad[i] ^= 1
		wrong(fmt.Sprint("byte ", i), wrapping, bad, ad)
	}
}
