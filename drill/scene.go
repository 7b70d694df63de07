package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"cmkfs/account"
	"cmkfs/drill/report"
	"cmkfs/hsm/azure/emulator"
	"cmkfs/supervisor/api"
)

// scene is where one drill happens: an account with one volume, mounted and
// served by a daemon, and what stands between that and its key.
type scene struct {
	own     bool     // the drill's own rig, not a user's volume
	program string   // cmkfsd
	env     []string // of the daemon
	dir     string   // of the drill's own files
	state   *account.Dir
	client  *api.Client
	account string
	volume  string
	mount   string
	options []string // of the mount
	policy  account.Policy
	pace    int // how many times slower than a quiet machine this one is

	emulator *emulator.Emulator // nil = none
	proxy    *proxy             // nil = none
	names    *names             // nil = the vault is not reached by name
	token    *token             // nil = none
	daemon   *daemon            // nil = it is not ours
	adopted  *Adopted           // nil = the drill's own rig
	guard    *guard             // of what is adopted
	began    time.Time
	rng      *rand.Rand

	mu struct {
		sync.Mutex
		timeline []report.Event
		cleanups []func()
		flapping context.CancelFunc
		flapped  chan struct{}
	}
	live *report.Live // is told of everything
}

// since is a moment of the drill.
func (s *scene) since(t time.Time) report.Offset { return report.Offset(t.Sub(s.began)) }

// note adds a line to the timeline.
func (s *scene) note(source, format string, args ...any) {
	s.mark(report.Event{At: s.since(time.Now()), Source: source, Text: fmt.Sprintf(format, args...)})
}

// mark adds an event to the timeline.
func (s *scene) mark(e report.Event) {
	s.mu.Lock()
	s.mu.timeline = append(s.mu.timeline, e)
	s.mu.Unlock()
	s.live.Event(e)
}

// cleanup has f called at the end, whatever happens. The last comes first.
func (s *scene) cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.cleanups = append(s.mu.cleanups, f)
}

// close takes everything away.
func (s *scene) close() {
	s.endFlapping()
	s.mu.Lock()
	all := s.mu.cleanups
	s.mu.cleanups = nil
	s.mu.Unlock()
	for i := len(all) - 1; i >= 0; i-- {
		all[i]()
	}
}

// paced is a time on a quiet machine as it is on this one.
func (s *scene) paced(d time.Duration) time.Duration { return d * time.Duration(s.pace) }

// status asks the daemon, for a second at most.
func (s *scene) status(ctx context.Context) (a api.AccountStatus, v api.VolumeStatus, all api.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.paced(time.Second))
	defer cancel()
	if all, err = s.client.Status(ctx); err != nil {
		return a, v, all, err
	}
	for _, a = range all.Accounts {
		if a.Name != s.account {
			continue
		}
		for _, v = range a.Volumes {
			if v.Name == s.volume {
				return a, v, all, nil
			}
		}
	}
	return a, v, all, fmt.Errorf("the daemon does not know volume %s/%s", s.account, s.volume)
}

// await polls until something holds.
func await(ctx context.Context, limit time.Duration, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		ok, err := holds()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited %s in vain until %s", limit, what), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitVolume waits for a state of the volume.
func (s *scene) awaitVolume(ctx context.Context, limit time.Duration, state string) error {
	return await(ctx, limit, "the volume is "+state, func() (bool, error) {
		_, v, _, err := s.status(ctx)
		return err == nil && v.State == state, err
	})
}

// flap does two things in turn until heal.
func (s *scene) flap(ctx context.Context, every time.Duration, off, on func() error) error {
	if err := off(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	s.mu.Lock()
	s.mu.flapping, s.mu.flapped = cancel, done
	s.mu.Unlock()
	go func() {
		defer close(done)
		for next, other := on, off; ; next, other = other, next {
			select {
			case <-ctx.Done():
				return
			case <-time.After(s.paced(every)):
			}
			if err := next(); err != nil {
				s.note("drill", "flapping: %v", err)
			}
		}
	}()
	return nil
}

// endFlapping waits until nothing flaps any more.
func (s *scene) endFlapping() {
	s.mu.Lock()
	cancel, done := s.mu.flapping, s.mu.flapped
	s.mu.flapping = nil
	s.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// work is the drill's folder on the volume.
func (s *scene) work() string { return filepath.Join(s.mount, "."+filepath.Base(s.dir)) }
