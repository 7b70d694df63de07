package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cmkfs/drill/child"
)

// Record is what a probe has seen so far.
type Record struct {
	process *child.Child
	ready   chan struct{}
	mu      struct {
		sync.Mutex
		slots  []Slot
		last   map[string]Slot // of each route
		broken error
	}
}

// readyWait is how long a probe may take until it tries.
const readyWait = 30 * time.Second

// Start starts a probe. program is the command before a job.
func Start(program []string, j Job) (*Record, error) {
	r := &Record{ready: make(chan struct{})}
	r.mu.last = map[string]Slot{}
	b, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	if r.process, err = child.Start(program[0], append(slices.Clone(program[1:]), string(b)), r.take); err != nil {
		return nil, err
	}
	select {
	case <-r.ready:
		return r, nil
	case <-time.After(readyWait):
		r.process.Kill()
		return nil, errors.New("the probe does not begin")
	case <-r.process.Ended():
		return nil, fmt.Errorf("the probe: %w", r.process.Wait(0))
	}
}

func (r *Record) take(line []byte) {
	var s Slot
	err := json.Unmarshal(line, &s)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.mu.broken = fmt.Errorf("the probe said %q: %w", line, err)
	case s.Route == "ready":
		close(r.ready)
	default:
		r.mu.slots = append(r.mu.slots, s)
		r.mu.last[s.Route] = s
	}
}

// Reopen has the probe open its files anew.
func (r *Record) Reopen() { _ = r.process.Tell("reopen") }

// Stop ends the probe.
func (r *Record) Stop() error {
	_ = r.process.Tell("stop")
	err := r.process.Wait(5 * time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(err, r.mu.broken)
}

// Kill ends the probe at once.
func (r *Record) Kill() { r.process.Kill() }

// Slots returns all slots so far.
func (r *Record) Slots() []Slot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mu.slots)
}

// Working says whether every one of the routes succeeded lately.
func (r *Record) Working(since time.Time) (ok bool, but string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, route := range Routes {
		// Of one that has not said anything yet the slot is empty.
		if r.mu.last[route].LastOK.Before(since) {
			return false, route
		}
	}
	return true, ""
}
