package supervisor

import (
	"bytes"
	"context"
	"errors"

	"cmkfs/account"
	"cmkfs/keyagent"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// Check is a check of one unmounted volume. It needs no daemon; the volume's
// lock keeps it and a mount apart.
type Check struct {
	Dir     *account.Dir
	Account *account.Account
	Volume  string
	Agent   *keyagent.Client
	Command []string // argv of the worker command; nil = {"/proc/self/exe", "worker"}

	Scrub    bool                    // read and authenticate every block, too
	Repair   bool                    // first make consistent what can be read
	Excise   bool                    // and remove what cannot be
	Progress func(done, total int64) // of the scrub, in pages; nil = nobody
	Finding  func(worker.Finding)    // told as they come; nil = nobody
	Repaired func(worker.Repaired)   // told what was repaired; nil = nobody
}

// Run looks for damage in a worker process, which alone gets the volume's key,
// and returns the number of findings. An error says that the check could not be
// made.
func (c Check) Run(ctx context.Context) (findings int, err error) {
	if _, err := c.Dir.Volume(c.Account.Name, c.Volume); err != nil {
		return 0, err
	}
	cfg := Config{WorkerCommand: c.Command}.withDefaults()
	var said bytes.Buffer // by a worker that crashes
	s := &spawner{command: cfg.WorkerCommand, agent: c.Agent, log: cfg.Log, stderr: &said}
	find := func(id string) (*account.AEKRecord, error) {
		if k := c.Account.AEK(id); k != nil {
			return k, nil
		}
		// A rotation may have changed both since the account was read.
		if now, err := c.Dir.Account(c.Account.Name); err == nil && now.AEK(id) != nil {
			return now.AEK(id), nil
		}
		return nil, api.Errorf(api.CodeMisconfigured, "the volume's key is sealed under an account encryption key that account "+c.Account.Name+" does not have")
	}
	seen, err := newest(c.Dir, volumeKey{c.Account.Name, c.Volume})
	if err != nil {
		cfg.Log.Warn("how far the volume had got is not known", "err", err)
		seen = nil
	}
	p, err := s.start(ctx, worker.Start{
		Mode: worker.ModeCheck, Dir: c.Dir.VolumeDir(c.Account.Name, c.Volume), Label: c.Account.Name + "/" + c.Volume,
		Newest: seen, Check: &worker.Check{Scrub: c.Scrub, Repair: c.Repair, Excise: c.Excise},
	}, find, c.reply)
	if err != nil {
		return 0, err
	}
	done, err := p.waitDone(ctx)
	var apiErr *api.Error
	if err != nil && ctx.Err() == nil && !errors.As(err, &apiErr) {
		cfg.Log.Error("the check worker ended", "stderr", said.String())
	}
	return done.Findings, err
}

func (c Check) reply(r worker.Reply) {
	switch {
	case r.Progress != nil && c.Progress != nil:
		c.Progress(r.Progress.Done, r.Progress.Total)
	case r.Finding != nil && c.Finding != nil:
		c.Finding(*r.Finding)
	case r.Repaired != nil && c.Repaired != nil:
		c.Repaired(*r.Repaired)
	}
}
