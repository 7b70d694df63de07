package crypto_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"testing"

	"cmkfs/crypto"
)

// The published vectors of the C2SP specification of XAES-256-GCM: one for each
// value of the bit that decides how the subkey is doubled, and the accumulated
// one over 10,000 random messages.
func TestBox_PublishedVectors(t *testing.T) {
	for _, v := range []struct {
		key  byte
		ad   string
		want string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		k := crypto.Key(bytes.Repeat([]byte{v.key}, 32))
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		got := crypto.SealWithNonce(k, nonce, []byte("XAES-256-GCM"), []byte(v.ad))
		if hex.EncodeToString(got) != v.want {
			t.Errorf("key %d: sealed to %x, want %s", v.key, got, v.want)
		}
		back, err := crypto.NewBox(k).Open(nil, append(nonce, got...), []byte(v.ad))
		if err != nil || string(back) != "XAES-256-GCM" {
			t.Errorf("key %d: opened to %q, %v", v.key, back, err)
		}
	}
}

func TestBox_AccumulatedVector(t *testing.T) {
	s, d := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	take := func(n int) []byte {
		b := make([]byte, n)
		s.Read(b)
		return b
	}
	for range 10_000 {
		k := crypto.Key(take(32))
		nonce := take(24)
		plaintext := take(int(take(1)[0]))
		ad := take(int(take(1)[0]))
		sealed := crypto.SealWithNonce(k, nonce, plaintext, ad)
		back, err := crypto.NewBox(k).Open(nil, append(nonce, sealed...), ad)
		if err != nil || !bytes.Equal(back, plaintext) {
			t.Fatalf("round trip failed: %v", err)
		}
		d.Write(sealed)
	}
	got := make([]byte, 32)
	d.Read(got)
	if want := "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"; hex.EncodeToString(got) != want {
		t.Errorf("accumulated to %x, want %s", got, want)
	}
}

func TestBox_SealOpen(t *testing.T) {
	b := crypto.NewBox(crypto.NewKey())
	for _, n := range []int{0, 1, 15, 16, 17, 4096} {
		plaintext := bytes.Repeat([]byte{7}, n)
		s := b.Seal([]byte("head"), plaintext, []byte("ad"))
		if !bytes.HasPrefix(s, []byte("head")) || len(s) != 4+n+crypto.BoxOverhead {
			t.Fatalf("%d bytes sealed to %d", n, len(s))
		}
		s = s[4:]
		if bytes.Equal(s, b.Seal(nil, plaintext, []byte("ad"))) {
			t.Error("two seals of the same message are equal: the nonce is not random")
		}
		got, err := b.Open([]byte("x"), s, []byte("ad"))
		if err != nil || !bytes.Equal(got, append([]byte("x"), plaintext...)) {
			t.Fatalf("%d bytes did not come back: %v", n, err)
		}
		for _, bad := range [][]byte{nil, s[:crypto.BoxOverhead-1], s[:len(s)-1], flip(s, 0), flip(s, 23), flip(s, 24), flip(s, len(s)-1)} {
			if got, err := b.Open(nil, bad, []byte("ad")); !errors.Is(err, crypto.ErrAuth) || got != nil {
				t.Errorf("damaged message: err = %v, want ErrAuth", err)
			}
		}
		if _, err := b.Open(nil, s, []byte("da")); !errors.Is(err, crypto.ErrAuth) {
			t.Errorf("other associated data: err = %v, want ErrAuth", err)
		}
	}
}

func flip(b []byte, i int) []byte {
	c := bytes.Clone(b)
	c[i] ^= 0x80
	return c
}

// The AES-256 examples of NIST SP 800-38B.
func TestCMAC_PublishedVectors(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key := unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
	msg := unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51" +
		"30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710")
	for n, want := range map[int]string{
		0:  "028962f61b7bf89efc6b551f4667d983",
		16: "28a7023f452e8f82bd4bf28d8c37c35c",
		40: "aaf3d8f1de5640c232f5b169b9c911e6",
		64: "e1992190549f6ed5696a2c056c315410",
	} {
		if got := crypto.CMAC(key, msg[:n]); hex.EncodeToString(got[:]) != want {
			t.Errorf("%d bytes: %x, want %s", n, got, want)
		}
	}
}

func TestSequence_IsPlainGCM(t *testing.T) {
	k := crypto.NewKey()
	block, err := aes.NewCipher(k[:])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	s := crypto.NewSequence(k)
	nonce := []byte{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}
	want := gcm.Seal(nil, nonce, []byte("hello"), []byte("ad"))
	if got := s.Seal(nil, 0x0102030405060708, []byte("hello"), []byte("ad")); !bytes.Equal(got, want) {
		t.Errorf("sealed to %x, want %x", got, want)
	}
}

func TestSequence_InPlace(t *testing.T) {
	s := crypto.NewSequence(crypto.NewKey())
	plain := bytes.Repeat([]byte("cmkfs"), 1000)
	buf := make([]byte, len(plain), len(plain)+crypto.TagSize)
	copy(buf, plain)
	sealed := s.Seal(buf[:0], 9, buf, nil)
	if &sealed[0] != &buf[0] || len(sealed) != len(plain)+crypto.TagSize {
		t.Fatal("not sealed in place")
	}
	if !bytes.Equal(sealed, s.Seal(nil, 9, plain, nil)) {
		t.Error("sealing in place gives another result")
	}
	got, err := s.Open(sealed[:0], 9, sealed, nil)
	if err != nil || !bytes.Equal(got, plain) || &got[0] != &buf[0] {
		t.Fatalf("not opened in place: %v", err)
	}
}

func TestSequence_RefusesOtherPositions(t *testing.T) {
	s := crypto.NewSequence(crypto.NewKey())
	m := s.Seal(nil, 5, []byte("block five"), []byte("ad"))
	if got, err := s.Open([]byte("x"), 5, m, []byte("ad")); err != nil || string(got) != "xblock five" {
		t.Fatalf("round trip: %q, %v", got, err)
	}
	bad := func(what string, s *crypto.Sequence, n uint64, m []byte, ad string) {
		t.Helper()
		if got, err := s.Open(nil, n, m, []byte(ad)); !errors.Is(err, crypto.ErrAuth) || got != nil {
			t.Errorf("%s: err = %v, want ErrAuth", what, err)
		}
	}
	bad("another number", s, 6, m, "ad")
	bad("another number, high bits", s, 5|1<<63, m, "ad")
	bad("other associated data", s, 5, m, "")
	bad("other key", crypto.NewSequence(crypto.NewKey()), 5, m, "ad")
	bad("short", s, 5, m[:3], "ad")
	bad("empty", s, 5, nil, "ad")
	for i := range m {
		bad("flipped", s, 5, flip(m, i), "ad")
	}
	inPlace := flip(m, 0)
	if _, err := s.Open(inPlace[:0], 5, inPlace, []byte("ad")); err == nil || bytes.Contains(inPlace, []byte("lock five")) {
		t.Error("a refused message left plaintext behind")
	}
}

func BenchmarkBox_Seal300(b *testing.B) {
	box, buf, plain := crypto.NewBox(crypto.NewKey()), make([]byte, 0, 1024), make([]byte, 300)
	b.SetBytes(300)
	b.ReportAllocs()
	for b.Loop() {
		box.Seal(buf, plain, nil)
	}
}

// requests are the bytes of a request, which is sealed and opened in blocks of at
// most 16 KiB.
var requests = []struct {
	name string
	size int // bytes
}{{"4KiB", 4 << 10}, {"16KiB", 16 << 10}, {"1MiB", 1 << 20}}

// BenchmarkSequence_Seal seals a request in place, as a segment's blocks are.
func BenchmarkSequence_Seal(b *testing.B) {
	for _, r := range requests {
		b.Run(r.name, func(b *testing.B) {
			s, data, tail := crypto.NewSequence(crypto.NewKey()), make([]byte, r.size), make([]byte, 0, 17<<10)
			b.SetBytes(int64(r.size))
			b.ReportAllocs()
			var n uint64
			for b.Loop() {
				for off := 0; off < r.size; off += 16 << 10 {
					s.Seal(tail, n, data[off:min(off+16<<10, r.size)], nil)
					n++
				}
			}
		})
	}
}

// BenchmarkSequence_Open opens a request's blocks.
func BenchmarkSequence_Open(b *testing.B) {
	for _, r := range requests {
		b.Run(r.name, func(b *testing.B) {
			s, out := crypto.NewSequence(crypto.NewKey()), make([]byte, 0, 17<<10)
			block := s.Seal(nil, 1, make([]byte, min(r.size, 16<<10)), nil)
			b.SetBytes(int64(r.size))
			b.ReportAllocs()
			for b.Loop() {
				for off := 0; off < r.size; off += 16 << 10 {
					if _, err := s.Open(out, 1, block, nil); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
