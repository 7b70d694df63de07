package supervisor_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"cmkfs/supervisor"
	"cmkfs/supervisor/api"
)

// A command's body is refused as invalid, or understood and, written again,
// understood as the same.
func FuzzRequests(f *testing.F) {
	f.Fuzz(func(t *testing.T, command string, body []byte) {
		make := supervisor.Bodies[command]
		if make == nil {
			return
		}
		got, again := make(), make()
		if err := supervisor.ReadRequest(body, got); err != nil {
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeInvalid {
				t.Errorf("refused with %v", err)
			}
			return
		}
		first, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := supervisor.ReadRequest(first, again); err != nil {
			t.Fatalf("%s is not understood any more: %v", first, err)
		}
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became\n%s, %v", first, second, err)
		}
	})
}

// Mount options mean the same in one list and in several, and nothing that is
// taken reaches the kernel as another option.
func FuzzMountOptions(f *testing.F) {
	f.Fuzz(func(t *testing.T, options string) {
		one, err := supervisor.ParseOptions([]string{options})
		several, err2 := supervisor.ParseOptions(strings.Split(options, ","))
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%q: %v, in parts %v", options, err, err2)
		}
		if err != nil {
			return
		}
		a, _ := json.Marshal(one)
		if b, _ := json.Marshal(several); !bytes.Equal(a, b) {
			t.Errorf("%q is %s, in parts %s", options, a, b)
		}
		for _, o := range one.Options {
			if strings.ContainsAny(o, ",=\\ ") {
				t.Errorf("%q hands on %q", options, o)
			}
		}
	})
}
