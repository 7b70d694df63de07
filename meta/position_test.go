package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
	"cmkfs/store"
)

// TestPosition_NoCrashIsRefused notes the position of a volume after every
// operation, and crashes the host at every event behind it in several ways:
// what is recovered is never older than that.
func TestPosition_NoCrashIsRefused(t *testing.T) {
	rec := must[*store.Recorder](t)(store.NewRecorder(shm(t)))
	defer rec.Close()
	cfg := format(t, rec)
	type noted struct {
		at       int
		position meta.Position
	}
	var all []noted
	for life := range 3 {
		v := openVolume(t, cfg)
		for i := range 12 {
			name := fmt.Sprint(life, i)
			a := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, name, unix.S_IFREG|0o600, 0))
			must[int](t)(v.Write(meta.Caller{}, a.Ino, content(i, 9000), 0))
			var err error
			switch i % 4 {
			case 1:
				err = v.Sync(context.Background())
			case 3:
				err = v.Checkpoint()
			}
			if err != nil {
				t.Fatal(err)
			}
			p := v.Position()
			all = append(all, noted{rec.Len(), p})
		}
		if err := v.Abandon(); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i, n := range all {
		end := rec.Len()
		if i+1 < len(all) {
			end = all[i+1].at
		}
		for upto := n.at; upto < end; upto++ {
			state := must[*store.Recorder](t)(rec.State(upto, keeps[rnd.IntN(len(keeps))].make(rnd)))
			c := cfg
			c.Store, c.Newest = state, &n.position
			v, err := meta.Open(context.Background(), c)
			if err != nil {
				t.Fatalf("event %d, position %+v: %v", upto, n.position, err)
			}
			if err := errors.Join(v.Abandon(), state.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestOpen_OlderCopy_IsRefused: behind a position, and beside it.
func TestOpen_OlderCopy_IsRefused(t *testing.T) {
	cfg, open := testVolume(t, 0)
	v := open()
	must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "f", unix.S_IFREG|0o600, 0))
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	p := v.Position()
	for name, change := range map[string]func(*meta.Position){
		"more checkpoints": func(p *meta.Position) { p.Checkpoints++ },
		"more operations":  func(p *meta.Position) { p.Operation++ },
		"another history":  func(p *meta.Position) { p.SetHash[0] ^= 1 },
	} {
		seen := p
		change(&seen)
		cfg.Newest = &seen
		var older *meta.OlderError
		if _, err := meta.Open(context.Background(), cfg); !errors.As(err, &older) {
			t.Errorf("%s: %v", name, err)
		}
		found := must[[]meta.Finding](t)(meta.Check(context.Background(), cfg, meta.CheckOptions{}))
		if len(found) != 1 || found[0].Code != meta.FindOlder {
			t.Errorf("%s: %v", name, found)
		}
		if _, err := meta.Repair(context.Background(), cfg, meta.RepairOptions{}); !errors.As(err, &older) {
			t.Errorf("%s: repair: %v", name, err)
		}
	}
	cfg.Newest = &p
	v = openVolume(t, cfg)
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}
