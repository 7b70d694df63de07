package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Status is what is read of `cmkfsd status -o json`.
type Status struct {
	PID         int `json:"pid"`
	KeyAgentPID int `json:"keyAgentPid"`
	Goroutines  int `json:"goroutines"`
	Accounts    []struct {
		Name    string `json:"name"`
		State   string `json:"state"`
		Reason  string `json:"reason"`
		Volumes []struct {
			Name       string `json:"name"`
			State      string `json:"state"`
			WorkerPID  int    `json:"workerPid"`
			Goroutines int    `json:"goroutines"`
		} `json:"volumes"`
	} `json:"accounts"`
}

// Status asks the daemon.
func (s *Stage) Status() (Status, error) {
	var st Status
	out, err := s.Cmkfs("status", "-o", "json")
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return st, fmt.Errorf("cmkfsd status -o json: %w", err)
	}
	return st, nil
}

// States returns the states of all accounts and volumes as one set.
func (st Status) States() map[string]bool {
	set := map[string]bool{}
	for _, a := range st.Accounts {
		set[a.State] = true
		for _, v := range a.Volumes {
			set[v.State] = true
		}
	}
	return set
}

// Workers returns the process of each served volume, by account/volume.
func (st Status) Workers() map[string]int {
	m := map[string]int{}
	for _, a := range st.Accounts {
		for _, v := range a.Volumes {
			if v.WorkerPID > 0 {
				m[a.Name+"/"+v.Name] = v.WorkerPID
			}
		}
	}
	return m
}

// AwaitAll waits until every account and every volume is in one state.
func (s *Stage) AwaitAll(limit time.Duration, state string) error {
	return s.Await(limit, "accounts and volumes "+state, func() (bool, error) {
		st, err := s.Status()
		set := st.States()
		return err == nil && len(set) == 1 && set[state], errors.Join(err, fmt.Errorf("states now: %v", set))
	})
}

// Serve starts the daemon and waits until it answers.
func (s *Stage) Serve() (*Process, error) {
	p, err := s.Launch(fmt.Sprintf("cmkfsd-%d.log", len(s.logs)), s.Cmkfsd, "--state-dir", s.State, "serve")
	if err != nil {
		return nil, err
	}
	return p, s.Await(10*time.Second, "the daemon answers", func() (bool, error) {
		st, err := s.Status()
		return err == nil && st.PID == p.PID(), err
	})
}
