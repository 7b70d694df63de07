package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// config is how a volume is opened or made.
func config(start Start, key crypto.Key, log *slog.Logger) (meta.Config, error) {
	dir, err := store.OpenDir(start.Dir)
	if err != nil {
		return meta.Config{}, fmt.Errorf("volume directory: %w", err)
	}
	return meta.Config{
		Store: dir, Key: key, VolumeID: start.VolumeID, Quota: start.Quota, Log: log,
	}, nil
}

func openVolume(ctx context.Context, start Start, key crypto.Key, log *slog.Logger) (*meta.Volume, error) {
	cfg, err := config(start, key, log)
	if err != nil {
		return nil, err
	}
	return meta.Open(ctx, cfg)
}

// format creates the volume.
func (w *process) format(start Start, key crypto.Key) int {
	ctx := context.Background()
	cfg, err := config(start, key, w.log)
	if err != nil {
		return w.fail(classOf(err), err)
	}
	err = meta.Create(ctx, cfg, meta.Params{
		JournalBytes: start.Format.JournalBytes,
		SealedVEK:    start.Format.SealedVEK,
		AEKID:        start.Format.AEKID,
		Commitment:   start.Format.Commitment,
		Quota:        start.Quota,
	})
	if err != nil {
		return w.fail(classOf(err), err)
	}
	return w.done(0)
}

// check looks for damage and reports it as it is found.
func (w *process) check(start Start, key crypto.Key) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for range w.requests {
		}
		cancel() // nobody reads the findings any more
	}()
	cfg, err := config(start, key, w.log)
	if err != nil {
		return w.fail(classOf(err), err)
	}
	return w.fail(ClassOther, errors.New("unsupported"+fmt.Sprint(ctx, cfg)))
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
	switch {
	case errors.Is(err, store.ErrLocked):
		return ClassLocked
	case errors.As(err, &version):
		return ClassVersion
	case errors.As(err, &corrupt):
		return ClassCorrupt
	case errors.Is(err, crypto.ErrAuth):
		return ClassKey
	case errors.Is(err, store.ErrFull), errors.Is(err, meta.ErrNoSpace):
		return ClassSpace
	}
	return ClassOther
}
