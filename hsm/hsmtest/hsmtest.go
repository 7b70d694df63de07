// Package hsmtest is what every provider of package hsm must do, as a test
// suite. A provider's test describes its key and the ways to lose it in a
// Harness and calls Run.
package hsmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm"
)

// Harness is one real key and what can happen to it.
type Harness struct {
	// Open opens the key, which is usable.
	Open func(ctx context.Context) (hsm.Key, error)
	// Want has the Type and Bits that Info must report.
	Want hsm.Info
	// Secrets are texts (a PIN, a token) that no error may contain.
	Secrets []string
	// Outages are ways to take the key away and give it back; at least one.
	Outages []Outage
	// Refused are keys and configurations that must be refused; at least one.
	Refused []Refused
	// Hang makes the key not answer until the test ends; nil if the provider
	// cannot be made to.
	Hang func(t *testing.T)
}

// Outage is a key that is taken away while it is open.
type Outage struct {
	Name       string
	Take, Give func(t *testing.T)
	Kind       hsm.Kind // of Unwrap's error meanwhile
	Reason     string
	// WrapOnly says that only wrapping is refused; unwrapping goes on, as with
	// an expired key.
	WrapOnly bool
}

// Refused is a key that cannot be used from the start. Opening it, or wrapping
// with it, fails.
type Refused struct {
	Name   string
	Open   func(ctx context.Context) (hsm.Key, error)
	Kind   hsm.Kind
	Reason string
}

// Run runs the suite. Each of its tests gets a harness of its own.
func Run(t *testing.T, setup func(t *testing.T) Harness) {
	t.Run("Info", func(t *testing.T) { info(t, setup(t)) })
	t.Run("RoundTrip", func(t *testing.T) { roundTrip(t, setup(t)) })
	t.Run("BadCiphertext", func(t *testing.T) { badCiphertext(t, setup(t)) })
	t.Run("Outages", func(t *testing.T) { outages(t, setup(t)) })
	t.Run("Refused", func(t *testing.T) { refused(t, setup(t)) })
	t.Run("Deadline", func(t *testing.T) { deadline(t, setup(t)) })
	t.Run("Closed", func(t *testing.T) { closed(t, setup(t)) })
}

func open(t *testing.T, h Harness) hsm.Key {
	t.Helper()
	k, err := h.Open(t.Context())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// check fails unless err is an *hsm.Error of the kind and reason ("" = any).
func check(t *testing.T, h Harness, err error, kind hsm.Kind, reason string) {
	t.Helper()
	var e *hsm.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), want an *hsm.Error", err, err)
	}
	if e.Kind != kind || (reason != "" && e.Reason != reason) {
		t.Errorf("got %s/%s, want %s/%s: %v", e.Kind, e.Reason, kind, reason, err)
	}
	if e.Message == "" || e.Op == "" {
		t.Errorf("the error says too little: %#v", e)
	}
	for _, s := range h.Secrets {
		if strings.Contains(err.Error(), s) {
			t.Errorf("the error contains a secret: %v", err)
		}
	}
}

func info(t *testing.T, h Harness) {
	i, err := open(t, h).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i.Type != h.Want.Type || i.Bits != h.Want.Bits || !i.Enabled || i.KeyID == "" {
		t.Errorf("Info = %+v, want type %s and %d bits, enabled, with an id", i, h.Want.Type, h.Want.Bits)
	}
	if err := i.Usable(time.Now()); err != nil {
		t.Errorf("Usable: %v", err)
	}
}

func roundTrip(t *testing.T, h Harness) {
	k := open(t, h)
	for _, n := range []int{1, 32, 190} {
		plaintext := random(t, n)
		w, err := k.Wrap(t.Context(), plaintext)
		if err != nil {
			t.Fatalf("Wrap of %d bytes: %v", n, err)
		}
		again, err := k.Wrap(t.Context(), plaintext)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(w.Ciphertext, again.Ciphertext) {
			t.Error("two wraps of the same key are equal")
		}
		if w.KeyID == "" || w.Algorithm == "" || bytes.Contains(w.Ciphertext, plaintext) && n > 1 {
			t.Errorf("Wrap = %+v", w)
		}
		// Another opening must do: nothing that is needed may live in the Key.
		got, err := open(t, h).Unwrap(t.Context(), w)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("Unwrap of %d bytes: %v", n, err)
		}
	}
	_, err := k.Wrap(t.Context(), random(t, 500))
	check(t, h, err, hsm.KindMisconfigured, "TooLong")
}

func badCiphertext(t *testing.T, h Harness) {
	k := open(t, h)
	w, err := k.Wrap(t.Context(), random(t, 32))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(w.Ciphertext)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string][]byte{
		"empty": nil, "one byte": {1}, "truncated": w.Ciphertext[:len(w.Ciphertext)-1],
		"longer": append(bytes.Clone(w.Ciphertext), 0), "flipped": flipped, "random": random(t, len(w.Ciphertext)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := k.Unwrap(t.Context(), hsm.Wrapped{KeyID: w.KeyID, Algorithm: w.Algorithm, Ciphertext: c})
			check(t, h, err, hsm.KindMisconfigured, "BadCiphertext")
		})
	}
	for _, bad := range []hsm.Wrapped{
		{KeyID: w.KeyID, Algorithm: "ROT13", Ciphertext: w.Ciphertext},
		{KeyID: "", Algorithm: w.Algorithm, Ciphertext: w.Ciphertext},
		{KeyID: "https://elsewhere.example/keys/k/1", Algorithm: w.Algorithm, Ciphertext: w.Ciphertext},
	} {
		_, err := k.Unwrap(t.Context(), bad)
		check(t, h, err, hsm.KindMisconfigured, "")
	}
	if _, err := k.Unwrap(t.Context(), w); err != nil {
		t.Errorf("the key no longer unwraps after garbage: %v", err)
	}
}

func outages(t *testing.T, h Harness) {
	if len(h.Outages) == 0 {
		t.Fatal("the harness has no outages")
	}
	k := open(t, h)
	plaintext := random(t, 32)
	w, err := k.Wrap(t.Context(), plaintext)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range h.Outages {
		t.Run(o.Name, func(t *testing.T) {
			o.Take(t)
			if o.WrapOnly {
				_, err = k.Wrap(t.Context(), plaintext)
				check(t, h, err, o.Kind, o.Reason)
			}
			for range 2 { // the answer must not change by being asked for
				got, err := k.Unwrap(t.Context(), w)
				if o.WrapOnly {
					if err != nil || !bytes.Equal(got, plaintext) {
						t.Errorf("Unwrap meanwhile: %v", err)
					}
					continue
				}
				check(t, h, err, o.Kind, o.Reason)
			}
			o.Give(t)
			got, err := k.Unwrap(t.Context(), w)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("Unwrap after the key was given back: %v", err)
			}
			if _, err := k.Wrap(t.Context(), plaintext); err != nil {
				t.Errorf("Wrap after the key was given back: %v", err)
			}
		})
	}
}

func refused(t *testing.T, h Harness) {
	if len(h.Refused) == 0 {
		t.Fatal("the harness refuses nothing")
	}
	for _, r := range h.Refused {
		t.Run(r.Name, func(t *testing.T) {
			k, err := r.Open(t.Context())
			if err == nil {
				defer k.Close()
				var i hsm.Info
				if i, err = k.Info(t.Context()); err == nil {
					if err = i.Usable(time.Now()); err == nil {
						_, err = k.Wrap(t.Context(), random(t, 32))
					}
				}
			}
			if err == nil {
				t.Fatal("the key was not refused")
			}
			check(t, h, err, r.Kind, r.Reason)
		})
	}
}

func deadline(t *testing.T, h Harness) {
	k := open(t, h)
	w, err := k.Wrap(t.Context(), random(t, 32))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = k.Unwrap(ctx, w)
	check(t, h, err, hsm.KindUnreachable, "")
	if h.Hang == nil {
		return
	}
	h.Hang(t)
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = k.Unwrap(ctx, w)
	check(t, h, err, hsm.KindUnreachable, "")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a deadline of 300 ms was honoured after %v", d)
	}
}

func closed(t *testing.T, h Harness) {
	k, err := h.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := k.Wrap(t.Context(), random(t, 32))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := k.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	_, err = k.Unwrap(t.Context(), w)
	check(t, h, err, hsm.KindMisconfigured, "Closed")
	_, err = k.Wrap(t.Context(), random(t, 32))
	check(t, h, err, hsm.KindMisconfigured, "Closed")
	_, err = k.Info(t.Context())
	check(t, h, err, hsm.KindMisconfigured, "Closed")
}
