package fs_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"cmkfs/crypto"
	"cmkfs/fs"
	"cmkfs/meta"
	"cmkfs/store"
)

var _ fs.Volume = (*meta.Volume)(nil)

func realConfig(dir string, log *slog.Logger) (meta.Config, *store.Dir, error) {
	st, err := store.OpenDir(dir)
	return meta.Config{Store: st, Key: crypto.Key{1, 2, 3}, VolumeID: [16]byte{4, 5, 6}, Log: log}, st, err
}

// realVolume formats a volume and returns its directory, for newRig. The test
// ends in the check of the volume.
func realVolume(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cfg, st, err := realConfig(dir, nil)
	must(t, err)
	defer st.Close()
	must(t, meta.Create(context.Background(), cfg, meta.Params{
		JournalBytes: 4 << 20, AEKID: "aek", SealedVEK: []byte("sealed"), Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:]),
	}))
	t.Cleanup(func() {
		cfg, st, err := realConfig(dir, nil)
		must(t, err)
		defer st.Close()
		findings, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true})
		must(t, err)
		for _, f := range findings {
			t.Errorf("volume check: %v", f)
		}
	})
	return dir
}

func openReal(dir string, log *slog.Logger, inFlight func() []uint64) (*meta.Volume, func(), error) {
	cfg, st, err := realConfig(dir, log)
	if err != nil {
		return nil, nil, err
	}
	cfg.InFlight = inFlight
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		return nil, nil, err
	}
	return v, func() {
		if err := v.Close(context.Background()); err != nil {
			panic(err)
		}
		st.Close()
	}, nil
}

// openVolume opens what a worker serves.
func openVolume(name string, log *slog.Logger, inFlight func() []uint64) (fs.Volume, func()) {
	if strings.HasPrefix(name, "mem") {
		v := newMemVolume()
		v.blockReads = name == "mem:block"
		v.slowWrites = name == "mem:slow"
		return v, func() {}
	}
	v, closeVolume, err := openReal(name, log, inFlight)
	if err != nil {
		panic(err)
	}
	return v, closeVolume
}
