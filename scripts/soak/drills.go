package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"cmkfs/scripts/internal/stage"
)

// drillReport is what is read of `cmkfsd drill run -o json`.
type drillReport struct {
	Drill        string   `json:"drill"`
	Passed       bool     `json:"passed"`
	Failure      string   `json:"failure"`
	Acknowledged int64    `json:"writesAcknowledged"`
	Lost         int64    `json:"writesLost"`
	Plaintext    int64    `json:"plaintextFound"`
	Stop         *float64 `json:"timeToStop"`
	Recover      *float64 `json:"timeToRecover"`
	Expectations []struct {
		Text   string `json:"text"`
		Held   bool   `json:"held"`
		Detail string `json:"detail"`
	} `json:"expectations"`
}

// drills runs random drills one after another until the time is over or one has
// failed, and returns the summary. The seed decides which come; from leaves out
// those before the from'th, so that a failure can be repeated alone.
func drills(s *stage.Stage, length time.Duration, seed uint64, from int) (summary string, err error) {
	out, err := s.Do(s.Cmkfsd, "drill", "list", "-o", "json")
	if err != nil {
		return "", err
	}
	var all []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) == 0 {
		return "", fmt.Errorf("cmkfsd drill list: %d drills, %w", len(all), err)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	var sum drillReport
	var stop, back float64
	n, kinds := 0, map[string]bool{}
	for k, end := 1, time.Now().Add(length); time.Now().Before(end) && s.Ctx.Err() == nil; k++ {
		name, own := all[rng.IntN(len(all))].Name, rng.Uint64()>>11+1
		if k < from {
			continue
		}
		s.Chapter = name
		r, err := drill(s, name, own)
		if s.Ctx.Err() != nil {
			break
		}
		if err != nil {
			return "", fmt.Errorf("drill %d, %s: %w\nrepeat it: go run ./scripts/soak -drills -seed %d -from %d, or cmkfsd drill run %s --seed %d", k, name, err, seed, k, name, own)
		}
		n, kinds[name] = n+1, true
		sum.Acknowledged += r.Acknowledged
		sum.Lost += r.Lost
		sum.Plaintext += r.Plaintext
		if r.Stop != nil {
			stop = max(stop, *r.Stop)
		}
		if r.Recover != nil {
			back = max(back, *r.Recover)
		}
		s.Say("%d: %s passed", k, name)
	}
	if n == 0 {
		return "", errors.Join(errors.New("no drill was run to its end"), s.Ctx.Err())
	}
	return fmt.Sprintf("%d drills of %d kinds passed (seed %d): %d writes acknowledged, %d lost, %d plaintext; slowest stop %.2f s, slowest return %.2f s",
		n, len(kinds), seed, sum.Acknowledged, sum.Lost, sum.Plaintext, stop, back), nil
}

// drill runs one.
func drill(s *stage.Stage, name string, seed uint64) (drillReport, error) {
	r, err := s.Try(30*time.Minute, s.Cmkfsd, "drill", "run", name, "--seed", fmt.Sprint(seed), "-o", "json", "--report", s.Path("drills"))
	if err != nil {
		return drillReport{}, err
	}
	var reports []drillReport
	if err := json.Unmarshal([]byte(r.Stdout), &reports); err != nil || len(reports) != 1 {
		return drillReport{}, fmt.Errorf("exit code %d: %s", r.Code, strings.TrimSpace(r.Stderr))
	}
	one := reports[0]
	var bad []error
	if one.Failure != "" {
		bad = append(bad, errors.New(one.Failure))
	}
	for _, e := range one.Expectations {
		if !e.Held {
			bad = append(bad, fmt.Errorf("not held: %s: %s", e.Text, e.Detail))
		}
	}
	if r.Code != 0 || !one.Passed {
		bad = append(bad, fmt.Errorf("exit code %d", r.Code))
	}
	return one, errors.Join(bad...)
}
