package fs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountEntry is one line of /proc/self/mountinfo.
type mountEntry struct {
	major, minor uint32
	point        string
	fsType       string
	source       string
}

// mounts lists the mounts of this process's name space, in order.
func mounts() ([]mountEntry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ms []mountEntry
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if m, ok := parseMount(sc.Text()); ok {
			ms = append(ms, m)
		}
	}
	return ms, sc.Err()
}

// parseMount parses a line: id parent major:minor root point options
// [optional...] - type source superoptions.
func parseMount(line string) (mountEntry, bool) {
	before, after, ok := strings.Cut(line, " - ")
	b, a := strings.Fields(before), strings.Fields(after)
	if !ok || len(b) < 6 || len(a) < 2 {
		return mountEntry{}, false
	}
	major, minor, ok := strings.Cut(b[2], ":")
	x, err1 := strconv.ParseUint(major, 10, 32)
	y, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return mountEntry{}, false
	}
	return mountEntry{
		major: uint32(x), minor: uint32(y),
		point: unescapeMount(b[4]), fsType: a[0], source: unescapeMount(a[1]),
	}, true
}

// unescapeMount undoes the octal escapes of spaces and the like.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// resolveMountpoint makes a path as mountinfo shows it, without touching what
// is mounted there: only the directory above is resolved.
func resolveMountpoint(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// findMount returns what is mounted on a directory, the topmost one.
func findMount(path string) (mountEntry, bool, error) {
	path, err := resolveMountpoint(path)
	if err != nil {
		return mountEntry{}, false, err
	}
	ms, err := mounts()
	if err != nil {
		return mountEntry{}, false, err
	}
	for i := len(ms) - 1; i >= 0; i-- {
		if ms[i].point == path {
			return ms[i], true, nil
		}
	}
	return mountEntry{}, false, nil
}

// ClearStale removes a mount of ours whose processes are all gone, so that the
// mount point can be used again, and reports whether there was one. Anything
// else mounted there is left alone. It asks the mount for its statistics; call
// it only for a mount point that this process does not itself serve.
func ClearStale(mountpoint string) (bool, error) {
	cleared := false
	for {
		m, ok, err := findMount(mountpoint)
		if err != nil {
			return cleared, fmt.Errorf("look for a stale mount: %w", err)
		}
		if !ok || m.fsType != fsType {
			return cleared, nil
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.point, &st); !errors.Is(err, unix.ENOTCONN) {
			return cleared, nil
		}
		if err := unix.Unmount(m.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return cleared, fmt.Errorf("clear the stale mount %s: %w", m.point, err)
		}
		cleared = true
	}
}

// AbortStale ends the connection of a mount of ours whose processes are all
// gone or cannot end: a worker that was killed while it invalidated pages may
// wait, unkillably, for an answer that nobody can give. It reports whether there
// was such a mount. ClearStale then removes it. Nothing is asked of the mount.
func AbortStale(mountpoint string) (bool, error) {
	m, ok, err := findMount(mountpoint)
	if err != nil {
		return false, fmt.Errorf("look for a stale mount: %w", err)
	}
	if !ok || m.fsType != fsType || m.major != 0 {
		return false, nil
	}
	if err := abortConnection(m.minor); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("abort the stale mount %s: %w", m.point, err)
	}
	return true, nil
}
