package meta_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"cmkfs/crypto"
	"cmkfs/meta"
)

// With these set the test binary is a worker of TestPowerCut.
const (
	powerDirEnv  = "CMKFS_POWERCUT_DIR"
	powerSeedEnv = "CMKFS_POWERCUT_SEED"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(powerDirEnv); dir != "" {
		if err := powerWorker(dir, os.Getenv(powerSeedEnv)); err != nil {
			fmt.Println("stopped", err)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(scaleDirEnv); dir != "" {
		if err := scaleWorker(dir, os.Getenv(scaleStepsEnv), os.Getenv(scaleOneEnv) != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// powerWorker makes a volume and works on it until its disk fails. It prints
// "answered n" after n operations, and "flushed n" when the first n of them
// are; flushes and checkpoints go on all the time.
func powerWorker(dir, seedText string) error {
	time.AfterFunc(time.Minute, func() { os.Exit(3) }) // nobody has killed it
	seed, err := strconv.ParseUint(seedText, 10, 64)
	if err != nil {
		return err
	}
	cfg, _, err := powerConfig(dir)
	if err != nil {
		return err
	}
	params := meta.Params{JournalBytes: 256 << 10, Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])}
	if err := meta.Create(context.Background(), cfg, params); err != nil {
		return err
	}
	v, err := meta.Open(context.Background(), cfg)
	if err != nil {
		return err
	}
	var answered atomic.Int64
	go func() {
		rnd := rand.New(rand.NewPCG(seed, 7))
		for {
			n := answered.Load()
			do := func() error { return v.Sync(context.Background()) }
			if rnd.IntN(5) == 0 {
				do = v.Checkpoint
			}
			if do() != nil {
				return // the operations see it, too
			}
			fmt.Println("flushed", n)
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
		}
	}()
	m, script := newModel(), powerScript(seed)
	for i := 0; ; i++ {
		before := m
		var o op
		m, o = script(m)
		if err := reclaim(v, before); err != nil {
			return err
		}
		got := o.run(v, caller(i))
		if _, want := o.apply(before); !sameOutcome(o, got, want) {
			return fmt.Errorf("%v answered %v, want %v", o, got, want)
		}
		answered.Add(1)
		fmt.Println("answered", i+1)
	}
}
