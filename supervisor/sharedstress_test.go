package supervisor_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/internal/stress"
	"cmkfs/keyagent"
	"cmkfs/supervisor"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// TestStress_SharedFiles: many workers rename, link, unlink, list, write, map
// and truncate the same files and directories of a mount, undisturbed, and
// while its worker process is killed again and again. CMKFS_STRESS says how
// long, as a duration.
func TestStress_SharedFiles(t *testing.T) {
	length := 1500 * time.Millisecond
	if d, err := time.ParseDuration(os.Getenv("CMKFS_STRESS")); err == nil {
		length = min(d, 90*time.Second) // a mount has four minutes
	}
	for _, c := range []struct{ replace, kills bool }{{false, false}, {true, true}} {
		t.Run(fmt.Sprintf("replace %v, kills %v", c.replace, c.kills), func(t *testing.T) {
			r := newRig(t)
			host, err := stress.NewHost(r.mount)
			if err != nil {
				t.Fatal(err)
			}
			until, seed := make(chan struct{}), rand.Uint64()
			time.AfterFunc(length, func() { close(until) })
			var killer sync.WaitGroup
			kills := 0
			killer.Go(func() {
				for c.kills {
					select {
					case <-until:
						return
					case <-time.After(50*time.Millisecond + rand.N(300*time.Millisecond)):
					}
					if pid := r.volume().WorkerPID; pid != 0 {
						_ = unix.Kill(pid, unix.SIGKILL)
						kills++
					}
				}
			})
			n, err := stress.Run(stress.Config{FileSystem: host, Workers: 8, Seed: seed, Replace: c.replace, Until: until})
			if err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
			<-until
			killer.Wait()
			host.Close()
			t.Logf("%d operations, %d kills", n, kills)
			if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
				t.Fatal(err)
			}
			r.checkVolume()
		})
	}
}

// checkVolume looks for damage in the volume, which is not mounted, as the
// command does.
func (r *rig) checkVolume() {
	r.t.Helper()
	d, err := account.Open(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := d.Account("acct")
	if err != nil {
		r.t.Fatal(err)
	}
	dir, err := d.AgentDir()
	if err != nil {
		r.t.Fatal(err)
	}
	agent := keyagent.New(keyagent.Config{Command: []string{"/proc/self/exe", "key-agent"}, StateDir: dir})
	defer agent.Close()
	found, err := supervisor.Check{
		Dir: d, Account: a, Volume: "vol", Agent: agent, Scrub: true,
		Finding: func(f worker.Finding) { r.t.Errorf("check: %+v", f) },
	}.Run(r.ctx)
	if err != nil || found > 0 {
		r.t.Errorf("check: %d findings, %v", found, err)
	}
}
