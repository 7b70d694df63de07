package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkfs/meta"
	"cmkfs/store"
)

// TestCampaign_Repair repairs damaged volumes: afterwards the check finds
// nothing, and what was not said to be lost is there.
func TestCampaign_Repair(t *testing.T) {
	c := &campaign{volumes: []*victim{newVictim(t, 1, true), newVictim(t, 2, false)}}
	dir := filepath.Join(shm(t), "volume")
	whole, excised := 0, 0
	for n := range uint64(300) {

		rnd := rand.New(rand.NewPCG(n, 9))
		v := c.volumes[rnd.IntN(2)]
		files := v.copy()
		what := v.damage(rnd, files, c.volumes[0])
		if err := files.write(dir); err != nil {
			t.Fatal(err)
		}
		watchdog := time.AfterFunc(2*time.Minute, func() { panic(fmt.Sprintf("case %d: %s: it hangs", n, what)) })
		st := must[*store.Dir](t)(store.OpenDir(dir))
		cfg := v.cfg
		cfg.Store, cfg.Newest = st, nil
		lost, err := repairAll(cfg)
		switch {
		case err != nil && isReport(err): // the superblock
		case err != nil:
			t.Errorf("case %d: %s: %v", n, what, err)
		default:
			if found, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true}); err != nil || len(found) > 0 {
				t.Errorf("case %d: %s: after the repair: %v, %v", n, what, found, err)
				break
			}
			if lost > 0 {
				excised++
				break
			}
			whole++
			opened := openVolume(t, cfg)
			reported, err := compareTree(opened, v.tree)
			// Only the account's memory tells older files from a crash.
			if !strings.Contains(what, "older") && !strings.HasPrefix(what, "journal/") && (err != nil || reported > 0) {
				t.Errorf("case %d: %s: nothing is said to be lost: %v, %d reads fail", n, what, err, reported)
			}
			if err := opened.Abandon(); err != nil {
				t.Error(err)
			}
		}
		watchdog.Stop()
		st.Close()
	}
	t.Logf("%d volumes are whole, %d lost something", whole, excised)
}

// repairAll repairs, with excision if need be.
func repairAll(cfg meta.Config) (lost int, err error) {
	did, err := meta.Repair(context.Background(), cfg, meta.RepairOptions{})
	if errors.Is(err, meta.ErrNeedsExcise) {
		if len(did) > 0 {
			return 0, fmt.Errorf("it did %v before it refused", did)
		}
	}
	if err == nil {
		var found []meta.Finding
		if found, err = meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true}); len(found) == 0 {
			return 0, err
		}
	}
	if err == nil || errors.Is(err, meta.ErrNeedsExcise) {
		did, err = meta.Repair(context.Background(), cfg, meta.RepairOptions{Excise: true})
	}
	for _, d := range did {
		if d.Lost {
			lost++
		}
	}
	return lost, err
}

// TestRepair_DiesAnywhere fails the calls of a repair in turn, as if the process
// died there: another repair ends what it began. CMKFS_REPAIR_CALLS=all fails
// every call and not only each fifth.
func TestRepair_DiesAnywhere(t *testing.T) {
	v := newVictim(t, 1, false)
	damages := map[string]func(volumeFiles){
		"index": func(f volumeFiles) { f.edit("index.db", 30*4096, 9000, func(b []byte) { clear(b) }) },
		"journal": func(f volumeFiles) {
			f.edit("journal/00", 0, 100, func(b []byte) { clear(b[20:]) })
			f.edit("segments/0000000000000001", 8192, 4096, func(b []byte) { clear(b) })
		},
	}
	dir := filepath.Join(shm(t), "volume")
	for name, damage := range damages {
		step := 5
		if os.Getenv("CMKFS_REPAIR_CALLS") == "all" {
			step = 1
		}
		for n := 0; ; n += step {
			files := v.copy()
			damage(files)
			if err := files.write(dir); err != nil {
				t.Fatal(err)
			}
			st := must[*store.Dir](t)(store.OpenDir(dir))
			cfg := v.cfg
			cfg.Newest = nil
			faulty := store.NewFaulty(st, store.FailNth(n, store.Fault{Err: syscall.EIO}))
			cfg.Store = faulty
			_, first := meta.Repair(context.Background(), cfg, meta.RepairOptions{Excise: true})
			cfg.Store = st
			if _, err := repairAll(cfg); err != nil {
				t.Errorf("%s, call %d: repair again: %v", name, n, err)
			}
			checkClean(t, cfg)
			st.Close()
			if faulty.Calls() <= n {
				if first != nil {
					t.Error(first)
				}
				t.Logf("%s: %d calls", name, n)
				break
			}
			if t.Failed() || n > 2000 {
				t.Fatalf("%s, call %d: %v", name, n, first)
			}
		}
	}
}
