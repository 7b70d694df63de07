package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/fs"
)

// orphanWait is how long a worker may live on whose supervisor was killed.
const orphanWait = 15 * time.Second

// clearStale removes the mounts that a daemon left behind which was killed, or
// whose host crashed. Its workers may still be draining; only when they are
// gone are their mounts dead and may be touched.
func (s *Supervisor) clearStale(accounts []string) {
	// The keeper of the daemon before ends last.
	if !waitUnlocked(keeperLock(s.dir.Path())) {
		s.log.Warn("the keeper of a daemon that is gone does not end")
	}
	for _, a := range accounts {
		names, err := s.dir.Volumes(a)
		if err != nil {
			s.log.Warn("the volumes of an account cannot be listed", "account", a, "err", err)
			continue
		}
		for _, v := range names {
			record, err := s.dir.Volume(a, v)
			if err != nil || record.MountPoint == "" {
				continue
			}
			if err := s.clearMount(volumeKey{a, v}, record.MountPoint); err != nil {
				s.log.Warn("a stale mount cannot be cleared", "mountPoint", record.MountPoint, "err", err)
				continue
			}
			record.MountPoint, record.Options = "", nil
			if err := s.dir.SaveVolume(a, record); err != nil {
				s.log.Warn("the volume's record cannot be stored", "vol", a+"/"+v, "err", err)
			}
		}
	}
}

func (s *Supervisor) clearMount(k volumeKey, mountPoint string) error {
	lock := filepath.Join(s.dir.VolumeDir(k.account, k.name), "lock")
	if !waitUnlocked(lock) {
		s.log.Warn("a worker of a daemon that is gone does not end; aborting its mount", "vol", k.String(), "mountPoint", mountPoint)
		if _, err := fs.AbortStale(mountPoint); err != nil {
			return err
		}
		waitUnlocked(lock)
	}
	cleared, err := fs.ClearStale(mountPoint)
	if cleared {
		s.log.Info("cleared a stale mount", "vol", k.String(), "mountPoint", mountPoint)
	}
	return err
}

// waitUnlocked waits until no process holds the lock of a volume. It gives up
// after a time, and at once if the one that holds it has been killed and cannot
// die.
func waitUnlocked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return true // no lock file, no holder
	}
	defer f.Close()
	stuck := 0
	for end := time.Now().Add(orphanWait); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true
		}
		if pid := holder(f); pid != 0 && dying(pid) {
			if stuck++; stuck > 20 {
				return false
			}
		}
	}
	return false
}

// holder returns the process that holds the flock on a file, 0 if it is not
// known.
func holder(f *os.File) int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF
		fields := strings.Fields(line)
		if len(fields) == 8 && fields[1] == "FLOCK" && fields[5] == file {
			pid, _ := strconv.Atoi(fields[4])
			return pid
		}
	}
	return 0
}
