package supervisor

import (
	"cmkfs/account"
	"cmkfs/worker"
)

// newest returns how far a volume is known to have got, for its next worker.
func newest(d *account.Dir, k volumeKey) (*worker.Position, error) {
	p, err := d.Position(k.account, k.name)
	if err != nil || p == nil {
		return nil, err
	}
	return &worker.Position{VolumeID: p.VolumeID, Checkpoints: p.Checkpoints, Operation: p.Operation, SetHash: p.SetHash}, nil
}

// note remembers what the worker has told of its volume last. Only the loop
// calls it. Whether it is remembered or not, no volume is refused that should
// not be.
func (m *mounted) note() {
	w := m.worker()
	if w == nil {
		return
	}
	p := w.position.Load()
	if p == nil || *p == m.noted {
		return
	}
	m.noted = *p
	if err := m.remember(*p); err != nil {
		m.log.Warn("how far the volume has got cannot be noted: an older copy in its place would not be noticed", "err", err)
	}
}

// rememberPosition stores a position.
func rememberPosition(d *account.Dir, k volumeKey, p worker.Position) error {
	return d.SavePosition(k.account, k.name, account.Position{VolumeID: p.VolumeID, Checkpoints: p.Checkpoints, Operation: p.Operation, SetHash: p.SetHash})
}

// acceptOlder makes whatever copy of a volume is there the volume.
func (a *acct) acceptOlder(name string) error {
	if err := a.s.dir.ForgetPosition(a.name, name); err != nil {
		return err
	}
	a.event(account.Event{Kind: account.AuditVolumeOlderAccepted, Volume: name})
	return nil
}
