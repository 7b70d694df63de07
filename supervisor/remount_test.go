package supervisor_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/supervisor"
	"cmkfs/supervisor/api"
)

// remount asks for a remount as mount(8) does.
func (r *rig) remount(options string) error {
	_, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: r.mount, Options: []string{"remount," + options}})
	return err
}

// mountOptions are what /proc/self/mountinfo says of the mount.
func (r *rig) mountOptions() []string {
	r.t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[4] == r.mount {
			return strings.Split(f[5], ",")
		}
	}
	r.t.Fatalf("%s is not in mountinfo", r.mount)
	return nil
}

// TestRemount changes a mount that is in use, and looks whether the volume's
// present worker and the next one know.
func TestRemount(t *testing.T) {
	r := newRig(t)
	f, err := os.Create(r.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	if err := r.remount("ro"); api.ErrorOf(err).Code != api.CodeBusy || !strings.Contains(err.Error(), "open for writing") {
		t.Errorf("read-only with a file open for writing: %v", err)
	}
	f.Close()
	for _, c := range []struct {
		options  string // of the remount
		has, not string // flags afterwards
	}{
		{"ro,noexec", "ro", "rw"},
		{"rw", "rw", "ro"},
		{"noatime", "noatime", "relatime"},
		{"nosuid", "nosuid", "relatime"},
		{"strictatime,suid", "noexec", "nosuid"},
		{"exec,atime,norelatime", "rw", "noexec"},
		// As mount(8) repeats mountinfo.
		{"rw,relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576,nodiratime", "relatime", "noatime"},
	} {
		if err := r.remount(c.options); err != nil {
			t.Fatalf("%s: %v", c.options, err)
		}
		if got := r.mountOptions(); !slices.Contains(got, c.has) || slices.Contains(got, c.not) {
			t.Errorf("after %s: %v, want %s and not %s", c.options, got, c.has, c.not)
		}
		err := os.WriteFile(r.path("written"), nil, 0o644)
		if readOnly := c.has == "ro"; readOnly != errnoIs(err, unix.EROFS) {
			t.Errorf("write after %s: %v", c.options, err)
		}
	}
	for _, o := range []string{"writeback", "noallow_other", "max_background=7"} {
		if err := r.remount(o); api.ErrorOf(err).Code != api.CodeInvalid || !strings.Contains(err.Error(), "cannot be changed by a remount") {
			t.Errorf("%s: %v", o, err)
		}
	}
	if _, err := r.Mount(r.ctx, "acct", "vol", api.Mount{MountPoint: "/elsewhere", Options: []string{"remount,ro"}}); api.ErrorOf(err).Code != api.CodeInvalid {
		t.Errorf("another mount point: %v", err)
	}

	// The workers go by it: reads change access times or do not.
	for _, rule := range []string{"strictatime", "noatime"} {
		if err := r.remount(rule); err != nil {
			t.Fatal(err)
		}
		r.wantAccessTime(rule == "strictatime")
		pid := r.workerPID()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the next worker serves", func() bool { p := r.volume().WorkerPID; return p != 0 && p != pid })
		r.wantAccessTime(rule == "strictatime")
	}

	if _, err := r.Unmount(r.ctx, "acct", "vol", api.Unmount{}); err != nil {
		t.Fatal(err)
	}
	if err := r.remount("ro"); api.ErrorOf(err).Code != api.CodeNotMounted {
		t.Errorf("a volume that is not mounted: %v", err)
	}
}

// wantAccessTime reads a file and looks whether that changed its access time. A
// worker learns of a remount a moment after it.
func (r *rig) wantAccessTime(changes bool) {
	r.t.Helper()
	atime := func() unix.Timespec {
		var st unix.Stat_t
		if err := unix.Stat(r.path("file"), &st); err != nil {
			r.t.Fatal(err)
		}
		return st.Atim
	}
	eventually(r.t, "access times are changed or left as mounted", func() bool {
		was := atime()
		time.Sleep(20 * time.Millisecond)
		fd, err := unix.Open(r.path("file"), unix.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		defer unix.Close(fd)
		page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			r.t.Fatal(err)
		}
		defer unix.Munmap(page)
		if _, err := unix.Read(fd, page); err != nil {
			r.t.Fatal(err)
		}
		return (atime() != was) == changes
	})
}

// TestParseOptions_Order has the later one of two options win, as mount(8) says.
func TestParseOptions_Order(t *testing.T) {
	for options, want := range map[string]string{
		"noatime,strictatime":     "strictatime",
		"strictatime,noatime":     "noatime",
		"noatime,atime":           "",
		"relatime,norelatime":     "",
		"nosuid,noexec,suid":      "noexec",
		"nodev,nodev":             "nodev",
		"nodiratime,strictatime":  "nodiratime,strictatime",
		"lazytime,sync,async":     "",
		"nosuid,noatime,nosuid":   "noatime,nosuid",
		"strictatime,nodiratime,": "strictatime,nodiratime",
	} {
		cfg, err := supervisor.ParseOptions([]string{options})
		if got := strings.Join(cfg.Options, ","); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", options, got, err, want)
		}
	}
	cfg, err := supervisor.ParseOptions([]string{"ro,writeback,noallow_other", "rw,nowriteback,allow_other"})
	if err != nil || cfg.ReadOnly || cfg.Writeback || !cfg.AllowOther {
		t.Errorf("%+v, %v", cfg, err)
	}
}
