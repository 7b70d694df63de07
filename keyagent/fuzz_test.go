package keyagent_test

import (
	"bytes"
	"testing"

	"cmkfs/keyagent"
)

// Whatever an agent sends, a caller gets at most one reply, and an error that
// comes out of it crosses the socket again unchanged.
func FuzzReplies(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		replies, first, second := keyagent.Deliver(bytes.Split(b, []byte("\n")))
		if replies > 1 {
			t.Errorf("%d replies to one call", replies)
		}
		if first != second {
			t.Errorf("the error %q became %q", first, second)
		}
	})
}

// A request that the agent understands is the one that was sent.
func FuzzRequests(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := keyagent.RecodeRequest(b)
		if err != nil {
			return
		}
		if second, err := keyagent.RecodeRequest(first); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became\n%s, %v", first, second, err)
		}
	})
}
