package main

import (
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"
)

// disturbances and how often each is chosen, in percent.
var disturbances = []struct {
	name    string
	percent int
	do      func(*soak) error
}{
	{"worker killed", 50, (*soak).killWorker},
	{"key agent killed", 8, (*soak).killAgent},
	{"suspended and restored", 10, (*soak).suspend},
	{"worker killed while suspending", 9, (*soak).killSuspending},
	{"remounted", 8, (*soak).remount},
	{"daemon killed", 8, (*soak).killDaemon},
	{"everything killed", 7, (*soak).killAll},
}

// disturb does one thing after another until the time is over or an actor has
// failed.
func (s *soak) disturb(length time.Duration) error {
	end := time.Now().Add(length)
	for last := time.Now(); time.Now().Before(end); {
		select {
		case err := <-s.fail:
			return err
		case <-s.Ctx.Done():
			return s.Ctx.Err()
		case <-time.After(time.Duration(200+s.rng.IntN(1500)) * time.Millisecond):
		}
		pick := s.rng.IntN(100)
		for _, d := range disturbances {
			if pick -= d.percent; pick < 0 {
				s.Chapter = d.name
				if err := d.do(s); err != nil {
					return fmt.Errorf("%s: %w", d.name, err)
				}
				s.counts[d.name]++
				break
			}
		}
		if time.Since(last) > 5*time.Second {
			last = time.Now()
			s.Say("%d operations, %v", s.ops.Load(), s.counts)
		}
	}
	return nil
}

func (s *soak) killWorker() error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	for _, pid := range st.Workers() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return err
		}
	}
	return nil
}

func (s *soak) killAgent() error {
	st, err := s.Status()
	if err != nil || st.KeyAgentPID == 0 {
		return err
	}
	if err := syscall.Kill(st.KeyAgentPID, syscall.SIGKILL); err != syscall.ESRCH {
		return err
	}
	return nil
}

// suspend locks the volume, during which operations fail, and restores access.
func (s *soak) suspend() error {
	return s.withFailures(func() error {
		for _, verb := range []string{"suspend", "restore-access"} {
			if _, err := s.Cmkfs("volume", verb, "v"); err != nil {
				return err
			}
		}
		return nil
	})
}

// killSuspending kills the worker somewhere in the suspending sequence, or
// soon after.
func (s *soak) killSuspending() error {
	return s.withFailures(func() error {
		suspended := make(chan error, 1)
		go func() {
			_, err := s.Cmkfs("volume", "suspend", "v")
			suspended <- err
		}()
		time.Sleep(time.Duration(s.rng.IntN(80)) * time.Millisecond)
		if err := s.killWorker(); err != nil {
			return err
		}
		if err := <-suspended; err != nil {
			return err
		}
		if err := s.Await(20*time.Second, "volume suspended", func() (bool, error) {
			st, err := s.Status()
			return err == nil && st.States()["suspended"], err
		}); err != nil {
			return err
		}
		_, err := s.Cmkfs("volume", "restore-access", "v")
		return err
	})
}

// remount unmounts cleanly and mounts again.
func (s *soak) remount() error {
	return s.withRest(func() error {
		if _, err := s.Cmkfs("volume", "unmount", "v"); err != nil {
			return err
		}
		_, err := s.Cmkfs("volume", "mount", "v", s.mount)
		return err
	})
}

func (s *soak) killDaemon() error {
	return s.withFailures(func() error {
		s.daemon.Kill()
		if err := s.serve(); err != nil {
			return err
		}
		_, err := s.Cmkfs("volume", "mount", "v", s.mount)
		return err
	})
}

func (s *soak) killAll() error {
	return s.withFailures(func() error {
		st, err := s.Status()
		if err != nil {
			return err
		}
		pids := append(slices.Collect(maps.Values(st.Workers())), s.daemon.PID())
		if st.KeyAgentPID != 0 {
			pids = append(pids, st.KeyAgentPID)
		}
		s.rng.Shuffle(len(pids), func(i, j int) { pids[i], pids[j] = pids[j], pids[i] })
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				return err
			}
		}
		s.daemon.Kill() // reaps it
		if err := s.serve(); err != nil {
			return err
		}
		_, err = s.Cmkfs("volume", "mount", "v", s.mount)
		return err
	})
}

// withFailures lets operations fail while something is done; every actor finds
// out afterwards what became of the one that failed.
func (s *soak) withFailures(do func() error) error {
	for _, a := range s.actors {
		a.windows.Add(1)
		a.mayFail.Store(true)
	}
	daemon := s.daemon
	err := do()
	for _, a := range s.actors {
		a.stale.Store(s.daemon != daemon)
		a.mayFail.Store(false)
	}
	return err
}

// withRest does something while no operation is under way and no file open.
func (s *soak) withRest(do func() error) error {
	for _, a := range s.actors {
		a.turn.Lock()
		a.shutAll()
		defer a.turn.Unlock()
	}
	return do()
}
