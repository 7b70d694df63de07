package worker

import (
	"context"
	"errors"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// unlock says which key the volume needs and waits for it.
func (w *process) unlock(dir store.Store) (meta.Config, error) {
	sealed, err := readSealed(dir)
	if err != nil {
		return meta.Config{}, err
	}
	if err := w.conn.Send(Reply{Sealed: &sealed}); err != nil {
		return meta.Config{}, err
	}
	key, err := readKey()
	if err != nil {
		return meta.Config{}, err
	}
	return meta.Config{Store: dir, Key: key, VolumeID: sealed.VolumeID, Log: w.log}, nil
}

// format creates the volume.
func (w *process) format(dir store.Store, f Format) int {
	key, err := readKey()
	if err != nil {
		return w.fail(classOf(err), err)
	}
	cfg := meta.Config{Store: dir, Key: key, VolumeID: f.Sealed.VolumeID, Log: w.log}
	err = meta.Create(context.Background(), cfg, meta.Params{
		JournalBytes: f.JournalBytes,
		SealedVEK:    f.Sealed.VEK,
		AEKID:        f.Sealed.AEKID,
		Commitment:   f.Sealed.Commitment,
		Quota:        f.Sealed.Quota,
	})
	if err != nil {
		return w.fail(classOf(err), err)
	}
	return w.done(0)
}

// check looks for damage and reports it as it is found.
func (w *process) check(dir store.Store, c Check, newest *Position) int {
	cfg, err := w.unlock(dir)
	cfg.Newest = newest.known(cfg.VolumeID)
	if err != nil && classOf(err) == ClassCorrupt {
		// Without its superblock nothing else of a volume can be looked at.
		f := Finding{Code: int(meta.FindSuperblock), Where: "superblock", Text: err.Error()}
		if w.conn.Send(Reply{Finding: &f}) != nil {
			return ExitOrphan
		}
		return w.done(1)
	}
	if err != nil {
		return w.fail(classOf(err), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for range w.requests {
		}
		cancel() // nobody reads the findings any more
	}()
	progress := func(done, total int64) {
		if w.conn.Send(Reply{Progress: &Progress{Done: done, Total: total}}) != nil {
			cancel()
		}
	}
	if c.Repair {
		did, err := meta.Repair(ctx, cfg, meta.RepairOptions{Excise: c.Excise, Progress: progress})
		for _, d := range did {
			if w.conn.Send(Reply{Repaired: &Repaired{Where: d.Where, Text: d.What, Lost: d.Lost}}) != nil {
				return ExitOrphan
			}
		}
		// What cannot be read is what the check finds below.
		if err != nil && !errors.Is(err, meta.ErrNeedsExcise) {
			return w.fail(classOf(err), err)
		}
	}
	findings, err := meta.Check(ctx, cfg, meta.CheckOptions{Scrub: c.Scrub || c.Excise, Progress: progress})
	if err != nil {
		return w.fail(classOf(err), err)
	}
	for _, f := range findings {
		if w.conn.Send(Reply{Finding: &Finding{Code: int(f.Code), Where: f.Where, Text: f.What}}) != nil {
			return ExitOrphan
		}
	}
	return w.done(len(findings))
}

func (w *process) done(findings int) int {
	if w.conn.Send(Reply{Done: &Done{Findings: findings}}) != nil {
		return ExitOrphan
	}
	return ExitOK
}

// classOf says what kind of failure an error of the volume is.
func classOf(err error) Class {
	var corrupt *meta.CorruptError
	var version *meta.VersionError
	var older *meta.OlderError
	var lost *meta.LostError
	switch {
	case errors.As(err, &older):
		return ClassOlder
	case errors.As(err, &lost):
		return ClassLost
	case errors.Is(err, store.ErrLocked):
		return ClassLocked
	case errors.As(err, &version):
		return ClassVersion
	case errors.As(err, &corrupt), errors.Is(err, meta.ErrNoVolume): // its superblock is lost
		return ClassCorrupt
	case errors.Is(err, errNoKey), errors.Is(err, meta.ErrWrongKey), errors.Is(err, crypto.ErrAuth):
		return ClassKey
	case errors.Is(err, store.ErrFull), errors.Is(err, meta.ErrNoSpace):
		return ClassSpace
	}
	return ClassOther
}
