package emulator

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// The kinds of Fault that spoil an answer instead of withholding it: the
// request is carried out, and only a success is spoilt, so that a client gets
// as far as a real vault would let it.
const (
	FaultGarbage  = "garbage"   // a page instead of the answer
	FaultWrongKey = "wrong-key" // the answer to encrypt, decrypt, wrapKey or unwrapKey with other bytes
	FaultTruncate = "truncate"  // half of the answer, then the connection ends
	FaultDrip     = "drip"      // a byte a second
	FaultHuge     = "huge"      // an answer that does not end
)

func (f *Fault) bends() bool {
	switch f.Kind {
	case FaultGarbage, FaultWrongKey, FaultTruncate, FaultDrip, FaultHuge:
		return true
	}
	return false
}

// recorder keeps an answer, headers aside, to be spoilt.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// bend sends a recorded answer, spoilt.
func (e *Emulator) bend(f *Fault, w http.ResponseWriter, r *http.Request, answer *recorder) {
	body := answer.body.Bytes()
	if answer.status != http.StatusOK {
		w.WriteHeader(answer.status)
		_, _ = w.Write(body)
		return
	}
	switch f.Kind {
	case FaultGarbage:
		body = []byte("<html><body>Welcome to the guest network</body></html>")
	case FaultWrongKey:
		var m map[string]any
		if json.Unmarshal(body, &m) == nil && m["value"] != nil {
			other := make([]byte, 32)
			rand.Read(other)
			m["value"] = b64.EncodeToString(other)
			body, _ = json.Marshal(m) // came from JSON
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if f.Kind == FaultHuge {
		w.Header().Set("Content-Length", strconv.Itoa(1<<40))
	}
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	switch f.Kind {
	case FaultTruncate:
		_, _ = w.Write(body[:len(body)/2])
		_ = flush()
		panic(http.ErrAbortHandler)
	case FaultDrip:
		for i := range body {
			if _, err := w.Write(body[i : i+1]); err != nil || flush() != nil {
				return
			}
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
				return
			case <-e.closing:
				return
			}
		}
	case FaultHuge:
		_, _ = w.Write([]byte(`{"value":"`))
		for page := bytes.Repeat([]byte("A"), 1<<16); ; {
			if _, err := w.Write(page); err != nil {
				return // the client has had enough
			}
		}
	default:
		_, _ = w.Write(body)
	}
}
