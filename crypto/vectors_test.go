package crypto_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cmkfs/crypto"
)

// vector is one file of testdata/vectors: lines of "name: value".
type vector struct {
	t      *testing.T
	fields map[string]string
}

// readVectors returns all of them. They were made by another implementation,
// testdata/vectors/generate.py.
func readVectors(t testing.TB) map[string]map[string]string {
	t.Helper()
	paths, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 40 {
		t.Fatalf("only %d vectors found", len(paths))
	}
	out := map[string]map[string]string{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(b)) {
			name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if !ok {
				t.Fatalf("%s: line %q", p, line)
			}
			fields[name] = value
		}
		out[filepath.Base(p)] = fields
	}
	return out
}

func (v vector) text(name string) string {
	v.t.Helper()
	s, ok := v.fields[name]
	if !ok {
		v.t.Fatalf("no field %q", name)
	}
	return s
}

func (v vector) bytes(name string) []byte {
	v.t.Helper()
	b, err := hex.DecodeString(v.text(name))
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v vector) number(name string) uint64 {
	v.t.Helper()
	n, err := strconv.ParseUint(v.text(name), 10, 64)
	if err != nil {
		v.t.Fatal(err)
	}
	return n
}

func (v vector) key() crypto.Key { return crypto.Key(v.bytes("key")) }

// check compares a result with the vector's expectation.
func (v vector) check(field string, got []byte, err error) {
	v.t.Helper()
	switch expect := v.text("expect"); {
	case expect == "auth-failure":
		if !errors.Is(err, crypto.ErrAuth) || got != nil {
			v.t.Errorf("accepted: %x, %v", got, err)
		}
	case expect != "success":
		v.t.Fatalf("unknown expectation %q", expect)
	case err != nil || !bytes.Equal(got, v.bytes(field)):
		v.t.Errorf("got %x, %v, want %s", got, err, v.text(field))
	}
}

func TestVectors(t *testing.T) {
	for name, fields := range readVectors(t) {
		t.Run(name, func(t *testing.T) {
			v := vector{t, fields}
			good := fields["expect"] == "success"
			switch op := v.text("op"); op {
			case "box":
				sealed := v.bytes("sealed")
				got, err := crypto.NewBox(v.key()).Open(nil, sealed, v.bytes("ad"))
				v.check("plaintext", got, err)
				if good {
					again := crypto.SealWithNonce(v.key(), sealed[:crypto.BoxNonceSize], got, v.bytes("ad"))
					v.check("sealed", append(sealed[:crypto.BoxNonceSize:crypto.BoxNonceSize], again...), nil)
				}
			case "sequence":
				s := crypto.NewSequence(v.key())
				got, err := s.Open(nil, v.number("n"), v.bytes("sealed"), v.bytes("ad"))
				v.check("plaintext", got, err)
				if good {
					v.check("sealed", s.Seal(nil, v.number("n"), got, v.bytes("ad")), nil)
				}
			case "wrap":
				k, err := crypto.OpenKey(v.key(), v.bytes("sealed"), v.bytes("ad"))
				if err != nil {
					v.check("plaintext", nil, err)
				} else {
					v.check("plaintext", k[:], nil)
				}
			case "derive":
				var context [][]byte
				if fields["context"] != "" {
					context = append(context, v.bytes("context"))
				}
				k := crypto.Derive(v.key(), string(v.bytes("purpose")), context...)
				v.check("result", k[:], nil)
			case "commit":
				if crypto.CheckCommit(v.key(), v.bytes("context"), v.bytes("result")) != good {
					t.Error("wrong verdict")
				}
			case "name":
				if got := crypto.NewNameHasher(v.key()).NameHash(v.number("parent"), string(v.bytes("name"))); got != v.number("result") {
					t.Errorf("got %d", got)
				}
			case "element":
				e := crypto.NewSetHasher(v.key()).Element(byte(v.number("table")), v.bytes("record"), v.bytes("value"))
				v.check("result", e[:], nil)
			case "pagetag":
				v.check("result", crypto.NewPageTagger(v.key()).Tag(nil, v.number("number"), v.bytes("page")), nil)
			default:
				t.Fatalf("unknown operation %q", op)
			}
		})
	}
}

// What Open accepts, sealing again under the same nonce gives back byte for
// byte; the vectors are the seeds.
func FuzzBoxOpen(f *testing.F) {
	seeds := 0
	for _, v := range readVectors(f) {
		if v["op"] == "box" {
			sealed, err := hex.DecodeString(v["sealed"])
			if err != nil {
				f.Fatal(err)
			}
			ad, _ := hex.DecodeString(v["ad"])
			f.Add(sealed, ad)
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	k := crypto.Key{}
	key, _ := hex.DecodeString(readVectors(f)["box-byte.txt"]["key"])
	copy(k[:], key)
	f.Fuzz(func(t *testing.T, sealed, ad []byte) {
		plain, err := crypto.NewBox(k).Open(nil, sealed, ad)
		if err != nil {
			if !errors.Is(err, crypto.ErrAuth) || plain != nil {
				t.Fatalf("refused with %x, %v", plain, err)
			}
			return
		}
		if again := crypto.SealWithNonce(k, sealed[:crypto.BoxNonceSize], plain, ad); !bytes.Equal(again, sealed[crypto.BoxNonceSize:]) {
			t.Fatalf("%x opened and was sealed again to %x", sealed, again)
		}
	})
}

// No two argument lists share a derived key.
func FuzzDerive(f *testing.F) {
	f.Add("segment", []byte("salt"), []byte(""), "segment", []byte(""), []byte("salt"))
	f.Add("a", []byte("b"), []byte("c"), "a", []byte("b"), []byte("c"))
	f.Fuzz(func(t *testing.T, p1 string, a1, b1 []byte, p2 string, a2, b2 []byte) {
		same := p1 == p2 && bytes.Equal(a1, a2) && bytes.Equal(b1, b2)
		if (crypto.Derive(crypto.Key{1}, p1, a1, b1) == crypto.Derive(crypto.Key{1}, p2, a2, b2)) != same {
			t.Error("derived keys collide or differ for equal arguments")
		}
	})
}
