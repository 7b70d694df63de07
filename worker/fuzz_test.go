package worker_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"cmkfs/worker"
)

// Whatever arrives at a control socket is refused or understood, by either end,
// and what is understood arrives again as the same. The socket goes on working.
func FuzzConn(f *testing.F) {
	ours, far, err := worker.Pair()
	if err != nil {
		f.Fatal(err)
	}
	theirs, err := worker.NewConn(far)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ours.Close(); theirs.Close() })
	// Nothing here may wait for ever.
	hang := time.AfterFunc(time.Hour, func() { ours.Close(); theirs.Close() })
	f.Cleanup(func() { hang.Stop() })
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 || len(packet) > 100<<10 { // an empty packet is the end
			return
		}
		for _, m := range []func() any{func() any { return new(worker.Request) }, func() any { return new(worker.Reply) }} {
			got, again := m(), m()
			if err := worker.SendRaw(ours, packet); err != nil {
				t.Fatal(err)
			}
			if _, err := theirs.Receive(got); err != nil {
				continue
			}
			first, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if len(first) > 120<<10 { // more than a packet holds: escapes made it longer
				continue
			}
			if err := ours.Send(got); err != nil {
				t.Fatal(err)
			}
			if _, err := theirs.Receive(again); err != nil {
				t.Fatalf("%s is not understood any more: %v", first, err)
			}
			if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
				t.Errorf("%s became\n%s, %v", first, second, err)
			}
		}
	})
}
