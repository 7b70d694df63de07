package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"cmkfs/drill/report"
)

// outage injects the fault and watches what becomes of it.
func (r *run) outage(ctx context.Context) error {
	s, d := r.scene, r.drill
	r.before = r.crew.Total()
	var pids []int
	if d.Outcome == Unmounts {
		_, _, all, err := s.status(ctx)
		if err != nil {
			return err
		}
		pids = family(all.PID)
	}
	r.watch.outage()
	r.facts.injected = time.Now()
	s.mark(report.Event{At: s.since(r.facts.injected), Source: "drill", Text: "the fault begins: " + d.Title, Kind: report.Fault})
	if err := r.inject(ctx); err != nil {
		return fmt.Errorf("the fault: %w", err)
	}
	hold := max(d.Hold, r.Duration)
	switch d.Outcome {
	case GoesOn:
		if err := pause(ctx, s.paced(max(hold, goesOnTime))); err != nil {
			return err
		}
	case Stops:
		limit := time.Duration(s.policy.OutageGrace) + s.paced(noticeTime)
		if r.Break == NoFault { // nothing is to come
			limit = time.Duration(s.policy.OutageGrace) + s.paced(5*time.Second)
		}
		if err := s.awaitVolume(ctx, limit, "suspended"); err != nil {
			s.note("drill", "%v", err)
			break
		}
		r.facts.ended = time.Now()
		r.search(ctx)
		if err := pause(ctx, max(s.paced(max(watchTime, r.Duration))-time.Since(r.facts.ended), s.paced(hold)-time.Since(r.facts.injected))); err != nil {
			return err
		}
	case Unmounts:
		r.facts.decided = r.facts.injected
		if err := await(ctx, s.paced(mostStop), "all processes of the daemon have ended", func() (bool, error) {
			r.facts.left = nil
			for _, pid := range pids {
				if alive(pid) {
					r.facts.left = append(r.facts.left, fmt.Sprintf("process %d", pid))
				}
			}
			return len(r.facts.left) == 0, nil
		}); err != nil {
			s.note("drill", "%v", err)
			break
		}
		r.facts.ended = time.Now()
		r.search(ctx)
		if err := pause(ctx, s.paced(max(watchTime, hold))); err != nil {
			return err
		}
	}
	r.facts.held = time.Now()
	return ctx.Err()
}

// inject begins the fault, or what is to happen in its place in a test.
func (r *run) inject(ctx context.Context) error {
	switch {
	case r.Break == NoFault && r.drill.Outcome == GoesOn:
		_, err := r.scene.client.SuspendAccount(ctx, r.scene.account)
		return err
	case r.Break == NoFault || r.drill.inject == nil:
		return nil
	}
	return r.drill.inject(ctx, r.scene)
}

// search looks for the canary where nothing of it may be.
func (r *run) search(ctx context.Context) {
	s, f := r.scene, &r.facts
	if r.Break == LeftBehind {
		if err := leaveBehind(s, r.canary); err != nil {
			s.note("drill", "%v", err)
		}
	}
	files, _, err := searchFiles(s.state.Path(), r.canary)
	f.found = append(f.found, files...)
	if err != nil {
		f.found = append(f.found, "not searched: "+err.Error())
	}
	// The drill itself knows the text.
	if control, _, err := searchMemory(os.Getpid(), r.canary); err == nil && len(control) > 0 {
		f.control = true
	}
	_, _, all, err := s.status(ctx)
	if err != nil {
		return // no daemon, no processes
	}
	for _, pid := range family(all.PID) {
		found, n, err := searchMemory(pid, r.canary)
		f.found = append(f.found, found...)
		f.searchedMemory += n
		if err != nil {
			f.found = append(f.found, "not searched: "+err.Error())
		}
	}
}

// restore ends the fault and asks for access.
func (r *run) restore(ctx context.Context) error {
	s, d, f := r.scene, r.drill, &r.facts
	s.endFlapping()
	f.healed = time.Now()
	if d.heal != nil {
		if err := d.heal(ctx, s); err != nil {
			return fmt.Errorf("ending the fault: %w", err)
		}
		s.mark(report.Event{At: s.since(time.Now()), Source: "drill", Text: "the fault has ended", Kind: report.Restore})
	}
	if d.Outcome == GoesOn && r.Break != NoFault {
		return pause(ctx, s.paced(restoredTime))
	}
	f.asked = time.Now()
	if r.Break == NoReturn {
		f.trouble = "nobody gives it back"
		return errors.New("access was not given back, on purpose")
	}
	hook := make(chan error, 1)
	go func() {
		var err error
		if d.restoring != nil {
			err = d.restoring(ctx, s)
		}
		hook <- err
	}()
	back := r.giveBack(ctx)
	if err := <-hook; err != nil {
		back = err
	} else if d.restoring != nil {
		back = r.giveBack(ctx) // whatever the first time has come to
	}
	if back != nil {
		f.trouble = back.Error()
		return fmt.Errorf("giving access back: %w", back)
	}
	var but string
	if err := await(ctx, s.paced(mostRecover), "every route works again", func() (bool, error) {
		var ok bool
		ok, but = r.probe.Working(f.asked)
		return ok, nil
	}); err != nil {
		f.trouble = fmt.Sprintf("%v: %s", err, but)
		return errors.New(f.trouble)
	}
	for _, slot := range r.probe.Slots() {
		if slot.FirstOK.After(f.asked) && (f.recovered.IsZero() || slot.FirstOK.Before(f.recovered)) {
			f.recovered = slot.FirstOK
		}
	}
	s.note("application", "reads and writes succeed again")
	return pause(ctx, s.paced(restoredTime))
}

// giveBack asks for access until it is there.
func (r *run) giveBack(ctx context.Context) error {
	s := r.scene
	remount := r.drill.Outcome == Unmounts || r.drill.Revived
	var last error
	err := await(ctx, s.paced(mostRecover), "access is given back", func() (bool, error) {
		last = s.tryRestore(ctx, remount)
		return last == nil, last
	})
	if err == nil && remount {
		r.crew.Reopen()
		r.probe.Reopen()
	}
	return err
}

// tryRestore asks once.
func (s *scene) tryRestore(ctx context.Context, remount bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.paced(mostRecover))
	defer cancel()
	if remount {
		if err := s.bringDaemon(ctx); err != nil {
			return err
		}
	}
	if _, err := s.client.RestoreAccount(ctx, s.account); err != nil {
		s.note("drill", "restore-access: %v", err)
		return err
	}
	if _, v, _, err := s.status(ctx); err != nil || v.MountPoint != "" || !remount {
		return err
	}
	return s.mountVolume(ctx)
}

// bringDaemon starts a daemon unless one answers.
func (s *scene) bringDaemon(ctx context.Context) error {
	if _, _, _, err := s.status(ctx); err == nil {
		return nil
	}
	s.note("drill", "a new daemon is started")
	if s.adopted != nil {
		return s.adopted.bring(ctx, s.client)
	}
	return s.startDaemon(ctx)
}
