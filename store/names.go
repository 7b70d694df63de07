package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
)

// lockName is the store's own file; it is never listed and cannot be opened.
const lockName = "lock"

// checkName refuses names that are not one or two plain components. Names come
// from the program, never from users, so this catches bugs and tampering.
func checkName(name string) error {
	dir, base := splitName(name)
	if (dir != "" && !plain(dir)) || !plain(base) || strings.HasPrefix(name, "/") || name == lockName {
		return fmt.Errorf("store: bad file name %q", name)
	}
	return nil
}

// checkDir refuses folder names other than "" and one plain component.
func checkDir(dir string) error {
	if dir != "" && !plain(dir) {
		return fmt.Errorf("store: bad folder name %q", dir)
	}
	return nil
}

func plain(s string) bool {
	if s == "" || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// splitName cuts a name into its folder, "" for the root, and the rest.
func splitName(name string) (dir, base string) {
	if dir, base, ok := strings.Cut(name, "/"); ok {
		return dir, base
	}
	return "", name
}

// wrap adds operation and name to an error, and the package's own error to one
// that stands for it. io.EOF stays bare, as io.ReaderAt wants it.
func wrap(op, name string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	// os and io/fs put the path in front; the name below says enough.
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	for _, m := range []struct {
		errno syscall.Errno
		ours  error
	}{
		{syscall.ENOENT, ErrNotExist},
		{syscall.EEXIST, ErrExist},
		{syscall.ENOSPC, ErrFull},
		{syscall.EDQUOT, ErrFull},
		{syscall.EWOULDBLOCK, ErrLocked},
	} {
		if errors.Is(err, m.errno) && !errors.Is(err, m.ours) {
			return fmt.Errorf("%s %s: %w (%w)", op, name, m.ours, err)
		}
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}
