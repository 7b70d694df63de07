package supervisor

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"cmkfs/account"
	"cmkfs/hsm"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// formatTimeout bounds the making of a volume: its journal files are written
// out in full.
const formatTimeout = 2 * time.Minute

// createVolume makes a new, empty volume. A failure, and a crash at any moment,
// leaves nothing but a folder that the next start of the daemon removes.
func (a *acct) createVolume(ctx context.Context, r api.CreateVolume) error {
	if err := account.CheckName("volume", r.Name); err != nil {
		return err
	}
	k := volumeKey{a.name, r.Name}
	end, err := a.s.begin(k, "create")
	if err != nil {
		return err
	}
	defer end()
	a.changes.RLock()
	defer a.changes.RUnlock()
	source := r.KeySource
	// Made again with another source, it would be asked to change it.
	if there, err := a.s.dir.Volume(a.name, r.Name); err == nil && source != "" && source != there.KeySource {
		return api.Refuse(api.CodeInvalid, hsm.SourceFixed)
	}
	if source == "" {
		source = a.record().KeySource()
	}
	aek, err := a.aekFor(source)
	if err != nil {
		return err
	}
	if err := a.settled(ctx, aek.ID); err != nil {
		return fmt.Errorf("create volume %s: %w", k, err)
	}
	pending, err := a.s.dir.NewVolume(a.name, r.Name)
	if err != nil {
		return err
	}
	if err := a.format(ctx, pending.Dir(), k, aek, r.QuotaBytes); err != nil {
		if aerr := pending.Abort(); aerr != nil {
			a.s.log.Warn("a half-made volume could not be removed; the next start does it", "vol", k.String(), "err", aerr)
		}
		return err
	}
	if err := pending.Commit(&account.VolumeRecord{
		Version: account.FormatVersion, Name: r.Name, KeySource: source, AEKID: aek.ID,
		QuotaBytes: r.QuotaBytes, Created: time.Now().UTC(),
	}); err != nil {
		return err
	}
	a.event(account.Event{Kind: account.AuditVolumeCreated, Volume: r.Name, Detail: map[string]string{"keySource": source}})
	return nil
}

// settled waits until the account's lease, if it is what guards the key, is
// good: the first check after a start may be under way.
func (a *acct) settled(ctx context.Context, aekID string) error {
	run := a.runner()
	if run == nil || !a.leased(aekID) {
		return nil
	}
	return run.Settled(ctx)
}

// format makes the volume's store.
func (a *acct) format(ctx context.Context, dir string, k volumeKey, aek *account.AEKRecord, quota uint64) error {
	ctx, cancel := context.WithTimeout(ctx, formatTimeout)
	defer cancel()
	var id [16]byte
	rand.Read(id[:])
	vek, err := a.agent(k.name).NewVEK(ctx, aek.Key, aek.ID, stored(aek), id)
	if err != nil {
		return err
	}
	w, err := a.spawner(k.name).start(ctx, worker.Start{
		Mode: worker.ModeFormat, Dir: dir, Label: k.String(),
		Format: &worker.Format{Sealed: worker.Sealed{
			VolumeID: id, AEKID: aek.ID, VEK: vek.Sealed, Commitment: vek.Commitment, Quota: quota,
		}},
	}, a.findAEK, nil)
	if err != nil {
		return err
	}
	_, err = w.waitDone(ctx)
	return err
}
