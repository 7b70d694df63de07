package emulator_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm/azure/emulator"
)

// Spoilt answers are spoilt in the one way that their name says, and only where
// a vault would have said yes.
func TestSpoiltAnswers(t *testing.T) {
	c := start(t, t.TempDir())
	c.furnish(t)
	token := c.token(t, "")
	sealed := c.seal(t, token, "encrypt", "c2VjcmV0").at("value").(string)
	ask := func(t *testing.T, ctx context.Context) ([]byte, error) {
		t.Helper()
		body := strings.NewReader(`{"alg":"RSA-OAEP-256","value":"` + sealed + `"}`)
		req, err := http.NewRequestWithContext(ctx, "POST", base+"/keys/cmk/decrypt"+version, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("HTTP %d", resp.StatusCode)
		}
		return io.ReadAll(io.LimitReader(resp.Body, 1<<24))
	}
	for kind, spoilt := range map[string]func(b []byte, err error) bool{
		emulator.FaultGarbage: func(b []byte, err error) bool { return err == nil && !json.Valid(b) },
		emulator.FaultWrongKey: func(b []byte, err error) bool {
			var m struct{ KID, Value string }
			return err == nil && json.Unmarshal(b, &m) == nil && m.KID != "" && len(m.Value) == 43 && m.Value != "c2VjcmV0"
		},
		emulator.FaultTruncate: func(b []byte, err error) bool { return len(b) > 0 && errors.Is(err, io.ErrUnexpectedEOF) },
		emulator.FaultDrip: func(b []byte, err error) bool {
			return len(b) > 0 && len(b) < 10 && errors.Is(err, context.DeadlineExceeded)
		},
		emulator.FaultHuge: func(b []byte, err error) bool { return err == nil && len(b) == 1<<24 },
	} {
		t.Run(kind, func(t *testing.T) {
			c.do(t, emulator.Command{Action: emulator.FaultAdd, Fault: &emulator.Fault{Kind: kind, Op: "decrypt"}})
			defer c.do(t, emulator.Command{Action: emulator.FaultClear})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if b, err := ask(t, ctx); !spoilt(b, err) {
				t.Errorf("%d bytes %.80q, %v", len(b), b, err)
			}
			if a := c.seal(t, "", "decrypt", sealed); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("without a token: HTTP %d", a.status)
			}
			if a := c.seal(t, token, "encrypt", "c2VjcmV0"); a.status != 200 {
				t.Errorf("another operation: HTTP %d", a.status)
			}
		})
	}
	if b, err := ask(t, t.Context()); err != nil || !strings.Contains(string(b), `"c2VjcmV0"`) {
		t.Errorf("afterwards: %q, %v", b, err)
	}
}
