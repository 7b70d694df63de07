package crypto_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"cmkfs/crypto"
)

func TestNameHasher_RangeAndSeparation(t *testing.T) {
	h := crypto.NewNameHasher(crypto.NewKey())
	other := crypto.NewNameHasher(crypto.NewKey())
	seen := map[uint64]string{}
	for parent := range uint64(20) {
		for i := range 1000 {
			name := fmt.Sprintf("%s%d", strings.Repeat("n", i%250), i)
			n := h.NameHash(parent, name)
			if n < crypto.MinNameHash || n >= crypto.MaxNameHash {
				t.Fatalf("hash %#x is out of range", n)
			}
			if old, dup := seen[n]; dup {
				t.Fatalf("%d/%s and %s collide", parent, name, old)
			}
			seen[n] = fmt.Sprint(parent, "/", name)
			if n != h.NameHash(parent, name) {
				t.Fatal("not deterministic")
			}
			if n == other.NameHash(parent, name) {
				t.Fatal("the key does not matter")
			}
		}
	}
}

func TestSetHash_IsOrderFreeAndInvertible(t *testing.T) {
	h := crypto.NewSetHasher(crypto.NewKey())
	var elements []crypto.SetHash
	for i := range 100 {
		elements = append(elements, h.Element(byte(i%3), []byte{byte(i)}, []byte("value")))
	}
	sum := func() (s crypto.SetHash) {
		for _, e := range elements {
			s = s.Add(e)
		}
		return s
	}
	want := sum()
	rand.Shuffle(len(elements), func(i, j int) { elements[i], elements[j] = elements[j], elements[i] })
	if sum() != want {
		t.Error("the order matters")
	}
	for _, e := range elements {
		want = want.Sub(e)
	}
	if want != (crypto.SetHash{}) {
		t.Errorf("taking every element out leaves %x", want)
	}
	e := elements[0]
	if (crypto.SetHash{}).Sub(e).Add(e) != (crypto.SetHash{}) {
		t.Error("subtracting below zero is not undone")
	}
	if e.Add(e) == (crypto.SetHash{}) || e.Add(e) == e {
		t.Error("an element twice does not count twice")
	}
}

func TestSetHash_CarriesOverWords(t *testing.T) {
	var ones, one crypto.SetHash
	for i := range ones {
		ones[i] = 0xff
	}
	one[31] = 1
	if ones.Add(one) != (crypto.SetHash{}) {
		t.Error("2^256-1 plus 1 is not 0")
	}
	if (crypto.SetHash{}).Sub(one) != ones {
		t.Error("0 minus 1 is not 2^256-1")
	}
	var low, carry crypto.SetHash
	for i := 24; i < 32; i++ {
		low[i] = 0xff
	}
	carry[23] = 1
	if low.Add(one) != carry || carry.Sub(one) != low {
		t.Error("no carry between words")
	}
}

func TestSetHasher_SeparatesElements(t *testing.T) {
	k := crypto.NewKey()
	h := crypto.NewSetHasher(k)
	seen := map[crypto.SetHash]bool{}
	for _, e := range []crypto.SetHash{
		h.Element(0, []byte("ab"), []byte("c")),
		h.Element(0, []byte("a"), []byte("bc")),
		h.Element(0, nil, []byte("abc")),
		h.Element(0, []byte("abc"), nil),
		h.Element(1, []byte("ab"), []byte("c")),
		crypto.NewSetHasher(crypto.NewKey()).Element(0, []byte("ab"), []byte("c")),
	} {
		if seen[e] {
			t.Error("two elements share a hash")
		}
		seen[e] = true
	}
	if h.Element(0, []byte("ab"), []byte("c")) != crypto.NewSetHasher(k).Element(0, []byte("ab"), []byte("c")) {
		t.Error("not deterministic")
	}
}

func BenchmarkNameHash(b *testing.B) {
	h := crypto.NewNameHasher(crypto.NewKey())
	b.ReportAllocs()
	for b.Loop() {
		h.NameHash(1234, "some-file-name.txt")
	}
}

func BenchmarkSetHasher_Element300(b *testing.B) {
	h := crypto.NewSetHasher(crypto.NewKey())
	key, value := make([]byte, 16), make([]byte, 300)
	b.ReportAllocs()
	for b.Loop() {
		h.Element(1, key, value)
	}
}
