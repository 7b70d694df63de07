package supervisor_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killCount is how often TestKills kills.
func killCount() int {
	if n, err := strconv.Atoi(os.Getenv("CMKFS_KILLS")); err == nil {
		return n
	}
	return 6
}

// TestKills kills the worker, worker and key agent, or every process, at random
// points while blocks are written through the mount. Writers notice only the
// last, and whatever was answered is there. CMKFS_KILLS says how often.
func TestKills(t *testing.T) {
	r := newRig(t)
	for round := range killCount() {
		var writers sync.WaitGroup
		stop := make(chan struct{})
		models := make([]*blockModel, 3)
		for i := range models {
			models[i] = newBlockModel(t, r.path(fmt.Sprint("blocks", i)), rand.Uint64())
			writers.Go(func() { models[i].run(stop) })
		}
		time.Sleep(rand.N(300 * time.Millisecond))
		daemon := r.cmd.Process.Pid
		pids := []int{r.workerPID()}
		if round%3 > 0 {
			pids = append(pids, children(t, daemon, "key-agent")...)
		}
		if round%3 == 2 {
			pids = append(pids, daemon)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if round%3 == 2 {
			writers.Wait()
			<-r.ended
			r.daemon = startDaemon(t, r.dir)
			r.mustMount()
		} else {
			time.Sleep(rand.N(300 * time.Millisecond))
			close(stop)
			writers.Wait()
		}
		for _, m := range models {
			if round%3 == 2 {
				m.reopen()
			}
			m.verify()
			if err := os.Remove(m.path); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}
