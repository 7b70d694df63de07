package fs_test

import (
	"os"
	"path/filepath"
	"testing"

	"cmkfs/fs"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// mode is a way to mount.
type mode struct {
	name string
	cfg  fs.MountConfig
}

// modes are the ways to mount that every file system test runs in.
var modes = []mode{
	{"writethrough", fs.MountConfig{AllowOther: true}},
	{"writeback", fs.MountConfig{AllowOther: true, Writeback: true}},
	rootOnly,
}

// rootOnly lets nobody else in, and the kernel checks no permissions.
var rootOnly = mode{"root only", fs.MountConfig{}}

// asOthers are the tests, of all suites, in which other users use the mount.
var asOthers = []string{"suid", "permissions", "acl"}

// suite is a set of tests of a directory, by name.
type suite map[string]func(t *testing.T, dir string)

// run runs a suite on a plain directory, as control, and on a mount in each
// mode, each test in a directory of its own. The tests named in notControl do
// not hold for a plain directory.
func (s suite) run(t *testing.T, notControl ...string) {
	all := func(t *testing.T, base string, leave []string) {
	next:
		for name, test := range s {
			for _, l := range leave {
				if l == name {
					continue next
				}
			}
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(base, name)
				must(t, os.Mkdir(dir, 0755))
				test(t, dir)
			})
		}
	}
	t.Run("control", func(t *testing.T) {
		base := t.TempDir()
		must(t, os.Chmod(filepath.Dir(base), 0755))
		all(t, base, notControl)
	})
	for _, m := range modes {
		var leave []string
		if !m.cfg.AllowOther {
			leave = asOthers
		}
		t.Run(m.name, func(t *testing.T) { all(t, newRig(t, realVolume(t), m.cfg).dir, leave) })
	}
}

func TestPosix(t *testing.T) {
	s := suite{}
	for name, test := range posixtest.All {
		s[name] = test
	}
	// It expects a process to conflict with a POSIX lock of its own, which no
	// file system makes it do; go-fuse leaves it out, too. See feature "locks".
	delete(s, "FcntlFlockLocksFile")
	// The first needs /etc/passwd on another file system, the second more
	// space for attributes than ext4 has.
	s.run(t, "OpenSymlinkRace", "XAttrLarge")
}
