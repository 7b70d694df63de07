package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"
)

// processDrills are deaths of our own processes, in each state of the volume,
// and the operator's lock.
func processDrills() []Drill {
	lock := func(ctx context.Context, s *scene) error {
		_, err := s.client.SuspendAccount(ctx, s.account)
		return err
	}
	var all []Drill
	for _, v := range []struct {
		name, who string
		find      func(*scene, context.Context) ([]int, error)
	}{
		{"worker", "the volume's worker", (*scene).workers},
		{"key-agent", "the key agent", (*scene).agents},
		{"supervisor", "the daemon", (*scene).supervisors},
	} {
		strike := func(ctx context.Context, s *scene) error { return s.strike(ctx, v.find) }
		gone := v.name == "supervisor"
		outcome := func(o Outcome) Outcome {
			if gone {
				return Unmounts
			}
			return o
		}
		online := Drill{
			Name: v.name + "-killed-online", Title: v.who + " is killed while the volume is online", Outcome: outcome(GoesOn), inject: strike,
		}
		suspending := Drill{
			Name: v.name + "-killed-suspending", Title: v.who + " is killed while the volume is being suspended", Outcome: outcome(Stops),
			inject: func(ctx context.Context, s *scene) error { return s.during(ctx, lock, v.find) },
		}
		suspended := Drill{
			Name: v.name + "-killed-suspended", Title: v.who + " is killed while the volume is suspended", Outcome: outcome(Stops),
			inject: func(ctx context.Context, s *scene) error {
				if err := lock(ctx, s); err != nil {
					return err
				}
				return strike(ctx, s)
			},
		}
		restoring := Drill{
			Name: v.name + "-killed-restoring", Title: v.who + " is killed while access is being given back", Outcome: Stops, inject: lock,
			Revived:   gone,
			restoring: func(ctx context.Context, s *scene) error { return s.whileRestoring(ctx, v.find) },
		}
		for _, d := range []Drill{online, suspending, suspended, restoring} {
			d.Daemon = gone
			all = append(all, d)
		}
	}
	all = append(all, Drill{
		Name: "keeper-killed-online", Title: "the keeper, the second holder of the mounts, is killed", Outcome: GoesOn,
		inject: func(ctx context.Context, s *scene) error { return s.strike(ctx, (*scene).keepers) },
	}, Drill{
		Name: "suspend-and-restore", Title: "an operator locks all volumes and gives access back", Outcome: Stops, inject: lock,
	})
	for i := range all {
		all[i].Source = Any
	}
	return all
}

// supervisors returns the daemon's process.
func (s *scene) supervisors(ctx context.Context) ([]int, error) {
	_, _, all, err := s.status(ctx)
	return []int{all.PID}, err
}

// workers returns the volume's worker, if it has one: the daemon's child that
// was given the volume's folder, also before it serves.
func (s *scene) workers(ctx context.Context) ([]int, error) {
	_, _, all, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	dir := s.state.VolumeDir(s.account, s.volume)
	return slices.DeleteFunc(family(all.PID), func(pid int) bool {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty if it has ended
		return !strings.Contains(string(args), dir) || !alive(pid)
	}), nil
}

// agents returns the key agent, if it runs at this moment.
func (s *scene) agents(ctx context.Context) ([]int, error) {
	_, _, all, err := s.status(ctx)
	if all.KeyAgentPID == 0 {
		return nil, err
	}
	return []int{all.KeyAgentPID}, err
}

// keepers returns the daemon's children that are neither worker nor key agent.
func (s *scene) keepers(ctx context.Context) ([]int, error) {
	_, v, all, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	others := []int{all.PID, all.KeyAgentPID, v.WorkerPID}
	for _, a := range all.Accounts {
		for _, v := range a.Volumes {
			others = append(others, v.WorkerPID)
		}
	}
	keepers := slices.DeleteFunc(family(all.PID), func(pid int) bool { return slices.Contains(others, pid) })
	return keepers, nil
}

// strikeWait is how long is waited for a process that comes and goes.
const strikeWait = 3 * time.Second

// strike kills processes, waiting a little for one to be there.
func (s *scene) strike(ctx context.Context, find func(*scene, context.Context) ([]int, error)) error {
	var pids []int
	_ = await(ctx, strikeWait, "there is a process to kill", func() (found bool, err error) {
		pids, err = find(s, ctx)
		return len(pids) > 0, err
	})
	if len(pids) == 0 {
		s.note("drill", "there was no process to kill")
		return nil
	}
	return s.killAll(pids)
}

func (s *scene) killAll(pids []int) error {
	var err error
	for _, pid := range pids {
		err = errors.Join(err, kill(pid))
		s.note("drill", "process %d was killed", pid)
	}
	return err
}

// during does something that takes a moment, and kills in the middle of it. If
// it was quicker, the processes are killed soon after.
func (s *scene) during(ctx context.Context, do func(context.Context, *scene) error, find func(*scene, context.Context) ([]int, error)) error {
	pids, err := find(s, ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- do(ctx, s) }()
	if err := pause(ctx, s.moment()); err != nil {
		return err
	}
	if len(pids) == 0 { // the key agent is not always there
		if pids, err = find(s, ctx); err != nil {
			return err
		}
	}
	if err := s.killAll(pids); err != nil {
		return err
	}
	select {
	case err := <-done:
		if err != nil {
			s.note("drill", "what was under way said: %v", err)
		}
		return nil
	case <-time.After(s.paced(mostRecover)):
		return fmt.Errorf("what was under way does not end")
	}
}

// whileRestoring kills as soon as access is being given back.
func (s *scene) whileRestoring(ctx context.Context, find func(*scene, context.Context) ([]int, error)) error {
	var pids []int
	err := await(ctx, s.paced(strikeWait), "there is a process to kill", func() (bool, error) {
		a, v, _, err := s.status(ctx)
		if err != nil {
			return false, err
		}
		if a.State == "restoring" || v.State == "restoring" || a.State == "online" {
			pids, err = find(s, ctx)
		}
		return len(pids) > 0, err
	})
	if err != nil {
		s.note("drill", "%v", err)
		return nil
	}
	return s.killAll(pids)
}

// moment is a random one of a suspension: they take some milliseconds.
func (s *scene) moment() time.Duration {
	return time.Duration(s.rng.Int64N(int64(s.paced(15 * time.Millisecond))))
}

// newRand is what is chosen at random in one drill.
func newRand(seed uint64, drill string) *rand.Rand {
	var n uint64
	for _, c := range drill {
		n = n*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(seed, n))
}
