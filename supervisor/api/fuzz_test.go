package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"cmkfs/supervisor/api"
)

// said is a daemon that says the same to everybody.
type said struct {
	status int
	body   []byte
}

func (s said) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: s.status, Status: http.StatusText(s.status), Header: http.Header{}, Request: r,
		Body: io.NopCloser(bytes.NewReader(s.body))}, nil
}

// Whatever a daemon says, a command gets an answer or an *Error.
func FuzzAnswers(f *testing.F) {
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		if status < 200 || status > 599 || status >= 300 && status < 400 {
			return
		}
		c := api.NewClient("/nowhere")
		c.SetTransport(said{int(status), body})
		_, err1 := c.Status(context.Background())
		_, err2 := c.RotateKey(context.Background(), "a", func(api.MovedVolume) {})
		_, err3 := c.Mount(context.Background(), "a", "v", api.Mount{})
		for _, err := range []error{err1, err2, err3} {
			var e *api.Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("%d %q: not an error of ours: %v", status, body, err)
			}
			if status >= 400 && err == nil {
				t.Errorf("%d %q was taken for success", status, body)
			}
		}
	})
}
