package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cmkfs/drill/child"
)

// Crew is one process of each kind at work.
type Crew struct {
	program []string // what starts a process; a job follows
	jobs    []Job
	members []*child.Child
	mu      struct {
		sync.Mutex
		tallies []Tally // the last of each
		broken  []error
	}
}

// Start starts a process of each kind, which work in folders below dir, a folder
// on the volume, and keep ledgers in another. program is the command before a
// job.
func Start(program []string, dir, ledgers string, seed uint64, writeback, lose bool) (*Crew, error) {
	c := &Crew{program: program}
	c.mu.tallies = make([]Tally, len(Kinds))
	for i, kind := range Kinds {
		j := Job{Kind: kind, Dir: filepath.Join(dir, kind), Ledger: filepath.Join(ledgers, kind), Seed: seed, Writeback: writeback, LoseWrite: lose}
		m, err := start(program, j, func(line []byte) {
			var t Tally
			err := json.Unmarshal(line, &t)
			c.mu.Lock()
			defer c.mu.Unlock()
			if err != nil {
				c.mu.broken = append(c.mu.broken, fmt.Errorf("%s: %q: %w", kind, line, err))
				return
			}
			c.mu.tallies[i] = t
		})
		if err != nil {
			c.Kill()
			return nil, err
		}
		c.jobs, c.members = append(c.jobs, j), append(c.members, m)
	}
	return c, nil
}

func start(program []string, j Job, line func([]byte)) (*child.Child, error) {
	b, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	return child.Start(program[0], append(slices.Clone(program[1:]), string(b)), line)
}

// Total is what all processes have done so far; At is the oldest news.
func (c *Crew) Total() Tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := Tally{At: time.Now(), Errors: map[string]int64{}}
	for _, t := range c.mu.tallies {
		total.Reads += t.Reads
		total.Writes += t.Writes
		total.Metadata += t.Metadata
		for k, n := range t.Errors {
			total.Errors[k] += n
		}
		if t.At.Before(total.At) {
			total.At = t.At
		}
		if longest := max(t.Longest, t.Waiting); longest > max(total.Longest, total.Waiting) {
			total.Longest, total.Waiting, total.Call = t.Longest, t.Waiting, t.Call
		}
	}
	return total
}

// Reopen has all processes open their files anew: the volume was mounted again.
func (c *Crew) Reopen() {
	for _, m := range c.members {
		_ = m.Tell("reopen") // one that has ended is noticed by Stop
	}
}

// Stop ends the work. An error is a process that did not end as it should, or
// said what nobody understands.
func (c *Crew) Stop() error {
	var failed []error
	for _, m := range c.members {
		_ = m.Tell("stop")
	}
	for i, m := range c.members {
		if err := m.Wait(endWait + 5*time.Second); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", c.jobs[i].Kind, err))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(append(failed, c.mu.broken...)...)
}

// Kill ends all processes at once.
func (c *Crew) Kill() {
	for _, m := range c.members {
		m.Kill()
	}
}

// verifyWait is how long looking at everything may take.
const verifyWait = 2 * time.Minute

// Verify compares the volume with all ledgers, each by a process of its own.
func (c *Crew) Verify() (Verdict, error) {
	var all Verdict
	for _, j := range c.jobs {
		kind := j.Kind
		j.Kind = "verify"
		var v Verdict
		var broken error
		answered := false
		p, err := start(c.program, j, func(line []byte) { broken, answered = json.Unmarshal(line, &v), true })
		if err != nil {
			return all, err
		}
		if err := errors.Join(p.Wait(verifyWait), broken); err != nil || !answered {
			return all, fmt.Errorf("looking at what %q has written: %w", kind, errors.Join(err, errors.New("no verdict")))
		}
		all.Acknowledged += v.Acknowledged
		all.Places += v.Places
		all.Lost += v.Lost
		all.Wrong = append(all.Wrong, v.Wrong...)
	}
	return all, nil
}
