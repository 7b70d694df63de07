package supervisor_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor/api"
)

func TestSupervisor_PlatformKey_EndToEnd(t *testing.T) {
	r := newRig(t)
	content := make([]byte, 3<<20+17)
	rand.Read(content)
	if err := os.WriteFile(r.path("file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.path("file")); !os.IsNotExist(err) {
		t.Errorf("after unmount: %v", err)
	}
	if v := r.volume(); v.State != api.VolumeUnmounted || v.MountPoint != "" {
		t.Errorf("after unmount: %+v", v)
	}
	r.mustMount("ro")
	got, err := os.ReadFile(r.path("file"))
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("after mounting again: %d bytes, %v", len(got), err)
	}
	if err := os.WriteFile(r.path("other"), nil, 0o644); !errnoIs(err, unix.EROFS) {
		t.Errorf("write on a read-only mount: %v", err)
	}
	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteVolume(r.ctx, "acct", "vol"); err != nil {
		t.Fatal(err)
	}
	if a := r.account(); len(a.Volumes) != 0 || a.State != "online" {
		t.Errorf("after delete: %+v", a)
	}
}
