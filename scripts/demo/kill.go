package main

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"
)

// whileKilling does some work while the workers of all volumes are killed with
// SIGKILL again and again, at least once each. The work must not notice.
func (d *demo) whileKilling(work func() error) error {
	ctx, cancel := context.WithCancel(d.Ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		kills int
		pids  = map[string]map[int]bool{} // that served each volume
		bad   error
	)
	wg.Go(func() {
		for pause := 300 * time.Millisecond; ; pause = 2 * time.Second {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			s, err := d.Status()
			if err != nil {
				bad = err
				return
			}
			for volume, pid := range s.Workers() {
				if pids[volume] == nil {
					pids[volume] = map[int]bool{}
				}
				pids[volume][pid] = true
				if syscall.Kill(pid, syscall.SIGKILL) == nil {
					kills++
				}
			}
		}
	})
	err := work()
	cancel()
	wg.Wait()
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	if kills == 0 {
		return errors.New("the work was over before a worker could be killed")
	}
	// The newest worker of each volume is another process than any killed one.
	err = d.Await(10*time.Second, "new workers for all volumes", func() (bool, error) {
		s, err := d.Status()
		now := s.Workers()
		for volume, old := range pids {
			if pid := now[volume]; pid == 0 || old[pid] {
				return false, err
			}
		}
		return err == nil, err
	})
	if err == nil {
		d.Say("%d workers were killed with SIGKILL meanwhile; nothing noticed", kills)
	}
	return err
}
