package account

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"cmkfs/hsm"
)

// Dir is a state directory. Its layout:
//
//	cmkfsd.sock                       admin socket of the daemon
//	cmkfsd.log                        log of a daemon that a command started
//	lock                              flock of the daemon
//	platform.key                      the platform-managed key
//	key-agent/                        PINs that were refused, as digests
//	accounts/A/account.json           Account
//	accounts/A/lease.json             Lease, as of the last transition
//	accounts/A/events.jsonl           the audit log
//	accounts/A/events.head            number and hash of its last line
//	accounts/A/newest/V.json          Position
//	accounts/A/volumes/V/volume.json  VolumeRecord
//	accounts/A/volumes/V/…            superblock, journal, segments, index
//
// Only the daemon that holds the lock changes anything in it. Every file is
// replaced atomically, so others may read at any time. A folder whose name
// begins with a dot is half-made or half-deleted; CleanUp removes it.
type Dir struct {
	path string
}

// maxSocketPath is how long the path of a socket may be, in bytes: see unix(7).
const maxSocketPath = 107

// Open opens an existing state directory. It refuses one that is not ours
// alone, with an error that is ErrUnsafeState, and one that does not exist with
// ErrNoState.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, failf(ErrNoState, "there is no state directory %s", path)
		}
		return nil, fmt.Errorf("state directory %s: %w", path, err)
	}
	switch mode := st.Mode & 0o7777; {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil, failf(ErrUnsafeState, "%s is not a directory", path)
	case int(st.Uid) != os.Geteuid():
		return nil, failf(ErrUnsafeState, "the state directory %s belongs to user %d, but cmkfsd runs as user %d", path, st.Uid, os.Geteuid())
	case mode&0o077 != 0:
		return nil, failf(ErrUnsafeState, "the state directory %s is accessible by other users (mode %04o)", path, mode)
	}
	return &Dir{path: path}, nil
}

// Create opens a state directory and makes it first if it is missing; its
// parent must exist, and its path be short enough for the socket in it.
func Create(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if most := maxSocketPath - len((&Dir{path: "/"}).SocketPath()); len(path) > most {
		return nil, fmt.Errorf("the path of the state directory has %d bytes, and there is room for %d: Linux keeps the names of sockets short", len(path), most)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cannot make the state directory: %w", err)
	}
	d, err := Open(path)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(d.path, "accounts"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cannot make the state directory: %w", err)
	}
	return d, nil
}

// Path returns the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// SocketPath returns the path of the daemon's admin socket.
func (d *Dir) SocketPath() string { return filepath.Join(d.path, "cmkfsd.sock") }

// LogPath returns where a daemon started in the background logs.
func (d *Dir) LogPath() string { return filepath.Join(d.path, "cmkfsd.log") }

// PlatformKeyPath returns the path of the platform-managed key.
func (d *Dir) PlatformKeyPath() string { return filepath.Join(d.path, "platform.key") }

// AgentDir returns the folder in which key agents remember refused PINs, and
// makes it if it is missing.
func (d *Dir) AgentDir() (string, error) {
	path := filepath.Join(d.path, "key-agent")
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("cannot make the key agent's folder: %w", err)
	}
	return path, nil
}

func (d *Dir) accountDir(account string) string { return filepath.Join(d.path, "accounts", account) }

func (d *Dir) accountFile(account, file string) string {
	return filepath.Join(d.path, "accounts", account, file)
}

// Lock takes the state directory for this daemon until the closer is closed
// or the process dies. It fails with ErrDaemonRuns.
func (d *Dir) Lock() (io.Closer, error) {
	path := filepath.Join(d.path, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, failf(ErrDaemonRuns, "another cmkfsd (process %s) serves the state directory %s", strings.TrimSpace(string(holder)), d.path)
	}
	// The process id is for that message only; the lock is the flock.
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// CleanUp removes what a crash left half-made. Only the holder of the lock may
// call it.
func (d *Dir) CleanUp() error {
	for _, pattern := range []string{"accounts/.*", "accounts/*/.*", "accounts/*/volumes/.*", "accounts/*/volumes/*/.volume.json*"} {
		leftovers, err := filepath.Glob(filepath.Join(d.path, pattern))
		if err != nil {
			return err
		}
		for _, l := range leftovers {
			if err := os.RemoveAll(l); err != nil {
				return fmt.Errorf("clean up the state directory: %w", err)
			}
		}
	}
	return nil
}

// Accounts returns the names of all accounts, sorted.
func (d *Dir) Accounts() ([]string, error) {
	return listNames(filepath.Join(d.path, "accounts"), "account", "account.json")
}

// listNames returns the subfolders of dir that have a valid name of that kind
// and contain the marker file ("" = any); a dir that is missing is empty.
func listNames(dir, kind, marker string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() || CheckName(kind, e.Name()) != nil {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, e.Name(), marker)); err == nil {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// Resolve returns name if it is a valid one, or the only account if name is
// empty. It does not say whether the account exists.
func (d *Dir) Resolve(name string) (string, error) {
	if name != "" {
		return name, CheckName("account", name)
	}
	names, err := d.Accounts()
	if err != nil {
		return "", err
	}
	switch len(names) {
	case 0:
		return "", failf(ErrNoAccount, "there is no account yet")
	case 1:
		return names[0], nil
	}
	return "", failf(ErrAmbiguous, "there are %d accounts (%s): say which one", len(names), strings.Join(names, ", "))
}

// Account reads one account.
func (d *Dir) Account(name string) (*Account, error) {
	if err := CheckName("account", name); err != nil {
		return nil, err
	}
	var a Account
	err := readJSON(d.accountFile(name, "account.json"), &a)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failf(ErrNotFound, "there is no account %q", name)
	}
	if err != nil {
		return nil, err
	}
	if err := a.Validate(); err != nil {
		return nil, err
	}
	if a.Name != name {
		return nil, fmt.Errorf("the folder of account %s holds account %s", name, a.Name)
	}
	a.AEKs = placePlatformKey(a.AEKs, d.PlatformKeyPath())
	return &a, nil
}

// placePlatformKey returns the records with another path of the
// platform-managed key. It is stored relative to the state directory, so that a
// copy of the directory uses its own, and absolute in memory.
func placePlatformKey(records []AEKRecord, path string) []AEKRecord {
	records = slices.Clone(records)
	for i := range records {
		if records[i].Key.Platform != nil {
			records[i].Key.Platform = &hsm.PlatformConfig{KeyFile: path}
		}
	}
	return records
}

// writeAccount replaces a folder's account.json.
func (d *Dir) writeAccount(dir string, a *Account) error {
	stored := *a
	stored.AEKs = placePlatformKey(a.AEKs, filepath.Base(d.PlatformKeyPath()))
	return writeJSON(filepath.Join(dir, "account.json"), &stored)
}

// CreateAccount stores a new account. A crash leaves it complete or not there.
func (d *Dir) CreateAccount(a *Account) error {
	if err := a.Validate(); err != nil {
		return err
	}
	final := d.accountDir(a.Name)
	if _, err := os.Lstat(final); err == nil {
		return failf(ErrExist, "there is already an account %q", a.Name)
	}
	half := d.accountDir("." + a.Name)
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(half, "volumes"), 0o700); err != nil {
		return err
	}
	if err := d.writeAccount(half, a); err != nil {
		return err
	}
	if err := os.Rename(half, final); err != nil {
		return err
	}
	return syncDir(filepath.Dir(final))
}

// SaveAccount replaces the record of an existing account.
func (d *Dir) SaveAccount(a *Account) error {
	if err := a.Validate(); err != nil {
		return err
	}
	if _, err := os.Lstat(d.accountFile(a.Name, "account.json")); err != nil {
		return failf(ErrNotFound, "there is no account %q", a.Name)
	}
	return d.writeAccount(d.accountDir(a.Name), a)
}

// DeleteAccount removes an account without volumes, and its events.
func (d *Dir) DeleteAccount(name string) error {
	if _, err := d.Account(name); err != nil {
		return err
	}
	vols, err := d.Volumes(name)
	if err != nil {
		return err
	}
	if len(vols) > 0 {
		return failf(ErrNotEmpty, "account %s still has %d volumes", name, len(vols))
	}
	return removeFolder(d.accountDir(name))
}

// removeFolder hides a folder durably, then empties it; a crash in between
// leaves work for CleanUp.
func removeFolder(path string) error {
	parent := filepath.Dir(path)
	hidden := filepath.Join(parent, "."+filepath.Base(path))
	if err := os.RemoveAll(hidden); err != nil {
		return err
	}
	if err := os.Rename(path, hidden); err != nil {
		return err
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	return os.RemoveAll(hidden)
}
