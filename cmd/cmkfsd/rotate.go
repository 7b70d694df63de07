package main

import (
	"context"
	"fmt"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
)

type accountRotateKeyCmd struct{ outputFlag }

// Help has the command's example.
func (*accountRotateKeyCmd) Help() string {
	return "Makes a new account encryption key, wrapped by the same key of yours, and seals every volume's key under it; the old one is dropped when no volume needs it. Volumes stay mounted and no data is rewritten. What is interrupted goes on by itself when the daemon runs and the key answers.\n\nExample:\n  cmkfsd account rotate-key"
}

// Run rotates the account's key.
func (c *accountRotateKeyCmd) Run(s *session) error {
	return s.moveKeys(c.Output, (*api.Client).RotateKey)
}

type accountTransitionCmd struct {
	DryRun bool `help:"Only list the volumes and whether they would move."`
	outputFlag
}

// Help has the command's example.
func (*accountTransitionCmd) Help() string {
	return "Takes all volumes of the account that are under the platform-managed key under the key that account update has set. Volumes stay mounted and no data is rewritten. There is no way back. What is interrupted goes on by itself when the daemon runs and the key answers.\n\nExamples:\n  cmkfsd account transition-to-cmk --dry-run\n  cmkfsd account transition-to-cmk"
}

// Run makes the transition.
func (c *accountTransitionCmd) Run(s *session) error {
	if c.DryRun {
		return c.list(s)
	}
	return s.moveKeys(c.Output, (*api.Client).TransitionToCMK)
}

// plannedMove is one volume of --dry-run.
type plannedMove struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	KeySource string `json:"keySource"`
	Moves     bool   `json:"moves"`
}

// list shows what a transition would do, as far as is known without opening a
// volume.
func (c *accountTransitionCmd) list(s *session) error {
	_, a, err := s.account()
	if err != nil {
		return err
	}
	if a.KeySource() == hsm.SourcePlatform {
		return api.Refuse(api.CodeInvalid, hsm.NotConfigured)
	}
	vols, err := s.volumes()
	if err != nil {
		return err
	}
	planned := []plannedMove{}
	var rows [][]string
	for _, v := range vols {
		p := plannedMove{Name: v.Name, State: v.State, KeySource: v.KeySource, Moves: v.KeySource != a.KeySource()}
		planned = append(planned, p)
		rows = append(rows, []string{p.Name, p.State, p.KeySource, map[bool]string{true: "yes", false: "no"}[p.Moves]})
	}
	if c.Output == "json" {
		return s.printJSON(planned)
	}
	s.printTable([]string{"name", "state", "key source", "moves to " + a.KeySource()}, rows)
	return nil
}

// moveKeys runs a rotation or transition and shows each volume as it is done.
func (s *session) moveKeys(output string, move func(*api.Client, context.Context, string, func(api.MovedVolume)) (api.KeyMoved, error)) error {
	if _, _, err := s.account(); err != nil {
		return err
	}
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	done, err := move(client, s.ctx, name, func(v api.MovedVolume) {
		if output != "json" {
			fmt.Fprintf(s.out, "%d/%d  %s  %s\n", v.Done, v.Total, v.Name, showMoved(v))
		}
	})
	if err != nil {
		return s.explainMove(name, err)
	}
	if output == "json" {
		return s.printJSON(done)
	}
	moved := 0
	for _, v := range done.Volumes {
		if v.Result == api.MoveDone {
			moved++
		}
	}
	fmt.Fprintf(s.out, "%s is done: %d of %d volumes moved, key %s\n", done.Operation, moved, done.Total, done.KeyID)
	return nil
}

// showMoved says what came of one volume.
func showMoved(v api.MovedVolume) string {
	switch v.Result {
	case api.MoveDone:
		return "moved, key source " + v.KeySource
	case api.MoveThere:
		return "is under the new key already"
	case api.MoveApart:
		return "is not affected, key source " + v.KeySource
	}
	return "failed: " + v.Error
}

// explainMove adds to an error what an unfinished move means.
func (s *session) explainMove(name string, err error) error {
	d, dirErr := s.dir()
	if dirErr != nil {
		return err
	}
	a, readErr := d.Account(name)
	if readErr != nil || a.Move == nil {
		return err
	}
	_, hint := classify(err)
	what := "the old and the new key both stay valid; the daemon goes on by itself, or run it again"
	if hint != "" {
		what = hint + ". Meanwhile " + what
	}
	return &hinted{err, what}
}

// showUnfinished is the line about a move that has begun; "" if there is none.
func showUnfinished(m *account.KeyMove) string {
	if m == nil {
		return ""
	}
	return m.Kind + ", begun " + showTime(m.Started) + ": the daemon goes on with it"
}
