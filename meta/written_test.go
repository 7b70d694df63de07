package meta_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/meta"
	"cmkfs/store"
)

// TestVolume_WrittenManyTimes writes one file over and over, as large requests and
// as small ones, and reads it. The host gets the space of what was overwritten back.
// The processor time per MiB is printed, in milliseconds: docs/limits.md has it.
// CMKFS_LIMIT_GIB is how much to write.
func TestVolume_WrittenManyTimes(t *testing.T) {
	total, file := 256, 64 // MiB
	if env, err := strconv.Atoi(os.Getenv("CMKFS_LIMIT_GIB")); err == nil {
		total, file = env<<10, 1<<10
	}
	st := must[*store.Dir](t)(store.OpenDir(t.TempDir()))
	cfg := meta.Config{Store: st, Key: crypto.NewKey()}
	if err := meta.Create(t.Context(), cfg, meta.Params{Commitment: crypto.Commit(cfg.Key, cfg.VolumeID[:])}); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, cfg)
	ino := must[meta.Attr](t)(v.Mknod(meta.Caller{}, meta.RootIno, "f", unix.S_IFREG|0o600, 0)).Ino
	buf := make([]byte, 1<<20)
	table := "GiB,write,rewrite4k,read,host_mib\n"
	for written, next := 0, file; written < total; {
		begin := processorTime()
		for i := range file {
			data := bytes.Repeat([]byte{byte(written>>6 + i)}, 1<<20)
			must[int](t)(v.Write(meta.Caller{}, ino, data, int64(i)<<20))
		}
		if err := v.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if written += file; written < min(next, total) {
			continue
		}
		wrote := processorTime()
		const small = 2048 // of 4 KiB
		for i := range small {
			at := int64(i) * 7919 * 4096 % (int64(file) << 20)
			must[int](t)(v.Write(meta.Caller{}, ino, buf[:4096], at))
		}
		if err := v.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		rewrote := processorTime()
		for i := range file {
			must[int](t)(v.Read(ino, buf, int64(i)<<20))
		}
		read := processorTime()
		clear(buf)
		ms := func(d float64, mib int) float64 { return d * 1e3 / float64(mib) }
		table += fmt.Sprintf("%.2f,%.2f,%.2f,%.2f,%d\n", float64(written)/1024, ms((wrote-begin).Seconds(), file),
			ms((rewrote-wrote).Seconds(), small>>8), ms((read-rewrote).Seconds(), file), hostMiB(t, st.Path("segments")))
		next *= 2
	}
	v.ReclaimSynced()
	t.Logf("milliseconds of processor time for a MiB:\n%s", table)
	if used := hostMiB(t, st.Path("segments")); used > file*5/4+16 {
		t.Errorf("%d MiB of the host are used for a file of %d", used, file)
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, cfg)
}

// hostMiB is the space that the files of a folder take.
func hostMiB(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	blocks := int64(0)
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // not one that is being removed
			blocks += info.Sys().(*syscall.Stat_t).Blocks
		}
	}
	return int(blocks >> 11)
}
