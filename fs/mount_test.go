package fs_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cmkfs/fs"

	"golang.org/x/sys/unix"
)

// procPath is the name by which an open file can be opened once more.
func procPath(f *os.File) string {
	return filepath.Join("/proc/self/fd", itoa(int(f.Fd())))
}

func TestParseMount(t *testing.T) {
	got, ok := fs.ParseMount(`36 35 0:98 / /mnt\040with\134odd\011name rw,noatime shared:1 - fuse.cmkfs acc/v\040l rw,user_id=0`)
	want := fs.MountEntry{Minor: 98, Point: "/mnt with\\odd\tname", FSType: "fuse.cmkfs", Source: "acc/v l"}
	if !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, line := range []string{"", "36 35 0:98 / /mnt rw", "36 35 x:y / /mnt rw - t s o", "36 35 / /mnt rw - t s"} {
		if m, ok := fs.ParseMount(line); ok {
			t.Errorf("%q is accepted: %+v", line, m)
		}
	}
}

func TestMount_ShowsWhatItIs(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true, Options: []string{"nosuid", "noexec", "noatime"}})
	f, err := os.Open("/proc/self/mounts")
	must(t, err)
	defer f.Close()
	line := ""
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if strings.Contains(sc.Text(), r.dir) {
			line = sc.Text()
		}
	}
	for _, want := range []string{"acc/vol ", " fuse.cmkfs ", "nosuid", "noexec", "noatime", "default_permissions", "allow_other", "max_read=1048576"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %q", want, line)
		}
	}
	b, err := os.ReadFile("/sys/class/bdi/0:" + itoa(int(r.dev.Conn)) + "/read_ahead_kb")
	must(t, err)
	if string(b) != "4096\n" {
		t.Errorf("read-ahead: %q", b)
	}
	if !r.dev.Resend || !r.dev.Alive() {
		t.Errorf("resend %v, alive %v", r.dev.Resend, r.dev.Alive())
	}
}

func TestMount_ReadOnly(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true, ReadOnly: true})
	wantErrno(t, "create", os.WriteFile(r.path("x"), nil, 0644), syscall.EROFS)
	if _, err := os.ReadFile(r.path("f0")); err != nil {
		t.Error(err)
	}
}

func TestMount_Refusals(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/file", nil, 0644))
	for _, c := range []struct {
		cfg   fs.MountConfig
		errno syscall.Errno
	}{
		{fs.MountConfig{Mountpoint: dir + "/missing", Source: "a/v"}, syscall.ENOENT},
		{fs.MountConfig{Mountpoint: dir + "/file", Source: "a/v"}, syscall.ENOTDIR},
		{fs.MountConfig{Mountpoint: dir, Source: "a/v", Options: []string{"nosense"}}, 0},
	} {
		if _, err := fs.Mount(context.Background(), c.cfg); err == nil || errnoOf(err) != c.errno {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
	out, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(out), dir) {
		t.Error("something is mounted")
	}
}

func TestDevice_Unmount_Busy(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	f, err := os.Open(r.path("f0"))
	must(t, err)
	wantErrno(t, "in use", r.dev.Unmount(t.Context(), false), syscall.EBUSY)
	f.Close()
}

func TestClearStale(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	if cleared, err := fs.ClearStale(r.dir); cleared || err != nil {
		t.Fatalf("a served mount: %v, %v", cleared, err)
	}
	plain := t.TempDir()
	if cleared, err := fs.ClearStale(plain); cleared || err != nil {
		t.Errorf("no mount: %v, %v", cleared, err)
	}
	must(t, unix.Mount("none", plain, "tmpfs", 0, ""))
	defer unix.Unmount(plain, unix.MNT_DETACH)
	if cleared, err := fs.ClearStale(plain); cleared || err != nil {
		t.Errorf("somebody else's mount: %v, %v", cleared, err)
	}

	// A mount whose processes are gone.
	dir := t.TempDir()
	dev, err := fs.Mount(t.Context(), fs.MountConfig{Mountpoint: dir, Source: "a/v"})
	must(t, err)
	dev.Close()
	if _, err := os.Stat(dir); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("stat of a stale mount: %v", err)
	}
	if cleared, err := fs.ClearStale(dir); !cleared || err != nil {
		t.Errorf("stale: %v, %v", cleared, err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("after clearing: %v", err)
	}
}

func TestDevice_Abort(t *testing.T) {
	r := newRig(t, "mem", fs.MountConfig{AllowOther: true})
	must(t, r.dev.Abort())
	_, err := os.Stat(r.path("f0"))
	wantErrno(t, "after an abort", err, syscall.ENOTCONN)
	if r.dev.Alive() {
		t.Error("alive after an abort")
	}
}
