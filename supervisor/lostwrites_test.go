package supervisor_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor/api"
)

// TestLostWrites: the disk loses what was written and answered, and not flushed, as
// it may when the host cannot write it and forgets it; then the worker dies. Programs
// must not go on as if nothing had happened, above all not be told by fsync that all is
// well. A new mount has what there was before.
func TestLostWrites(t *testing.T) {
	r := newRig(t)
	if err := writeSynced(r.path("kept"), "kept"); err != nil {
		t.Fatal(err)
	}
	f := r.loseWrites()
	if _, err := f.Write([]byte("more")); !errors.Is(err, unix.EIO) {
		t.Errorf("a write after it: %v", err)
	}
	if _, err := os.ReadDir(r.mount); !errors.Is(err, unix.EIO) {
		t.Errorf("a listing after it: %v", err)
	}
	f.Close()
	var v api.VolumeStatus
	eventually(t, "the volume's state says why", func() bool {
		v = r.volume()
		return strings.Contains(v.Reason, "the disk has lost the end of what was answered and not flushed")
	})
	if v.State == api.VolumeOnline {
		t.Errorf("the volume is %+v", v)
	}
	r.mountAnew()
	if got, err := os.ReadFile(r.path("kept")); string(got) != "kept" {
		t.Errorf("what was flushed before: %q, %v", got, err)
	}
	if _, err := os.Stat(f.Name()); !errors.Is(err, fs.ErrNotExist) {
		if st, err := os.Stat(f.Name()); err != nil || st.Size() != 0 {
			t.Errorf("what was lost is there: %v, %v", st, err)
		}
	}
	if err := writeSynced(r.path("new"), "new"); err != nil {
		t.Error(err)
	}
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	r.checkVolume()
}

// mountAnew unmounts the volume and mounts it again.
func (r *rig) mountAnew() {
	r.t.Helper()
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		r.t.Fatal(err)
	}
	r.mustMount()
}

// writeSynced makes a file that is on the disk.
func writeSynced(path, text string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// loseWrites has the disk lose a write before it is flushed, and the worker killed,
// and returns the file, whose fsync must have failed. When the volume flushed by itself
// in between, which it does after a second, it tries again.
func (r *rig) loseWrites() *os.File {
	r.t.Helper()
	for range 10 {
		f, err := os.Create(r.path("lost"))
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { f.Close() })
		if err := f.Sync(); err != nil {
			r.t.Fatal(err)
		}
		name, before := r.newestSegment()
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			r.t.Fatal(err)
		}
		now, after := r.newestSegment()
		if now != name {
			before = 4096 // behind its header
		}
		punch(r.t, now, before, after)
		if err := unix.Kill(r.workerPID(), unix.SIGKILL); err != nil {
			r.t.Fatal(err)
		}
		if err := f.Sync(); errors.Is(err, unix.EIO) {
			return f
		} else if err != nil {
			r.t.Fatalf("fsync: %v, want EIO", err)
		}
		f.Close()
		r.mountAnew()
		if st, err := os.Stat(r.path("lost")); err != nil || st.Size() != 1<<20 {
			r.t.Fatalf("fsync said that all is well, and what was written is lost: %v, %v", st, err)
		}
		if err := os.Remove(r.path("lost")); err != nil {
			r.t.Fatal(err)
		}
	}
	r.t.Fatal("the volume always flushed first")
	return nil
}

// newestSegment returns the path and the size of the segment that is being written.
func (r *rig) newestSegment() (path string, size int64) {
	r.t.Helper()
	names, err := filepath.Glob(filepath.Join(r.dir, "accounts", "*", "volumes", "*", "segments", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range names {
		path = max(path, name)
	}
	if path == "" {
		return "", 0
	}
	st, err := os.Stat(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return path, st.Size()
}

// punch makes a range of a file read as zeros.
func punch(t *testing.T, path string, from, to int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from); err != nil {
		t.Fatal(err)
	}
}
