package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/account"
	"cmkfs/fs"
	"cmkfs/supervisor/api"
	"cmkfs/worker"
)

// mountVolume mounts a volume. The worker opens the volume before anything is
// mounted, so that a failure leaves nothing behind and nobody meets a mount
// that does not answer.
func (a *acct) mountVolume(ctx context.Context, name string, r api.Mount) error {
	k := volumeKey{a.name, name}
	record, err := a.s.dir.Volume(a.name, name)
	if err != nil {
		return err
	}
	if isRemount(r.Options) {
		return a.remountVolume(ctx, name, r)
	}
	config, err := parseOptions(r.Options)
	if err != nil {
		return err
	}
	if r.WhenLocked != "" && r.WhenLocked != api.WhenLockedFail && r.WhenLocked != api.WhenLockedSuspended {
		return api.Errorf(api.CodeInvalid, fmt.Sprintf("when-locked is fail or suspended, not %q", r.WhenLocked))
	}
	end, err := a.s.begin(k, "mount")
	if err != nil {
		return err
	}
	defer end()
	if m := a.s.stillMounted(k); m != nil {
		return api.Errorf(api.CodeBusy, fmt.Sprintf("volume %s is already mounted on %s", k, m.mountPoint))
	}
	config.Mountpoint, err = a.s.checkMountPoint(r.MountPoint)
	if err != nil {
		return err
	}
	config.Source = k.String()
	if r.AcceptOlder {
		if err := a.acceptOlder(name); err != nil {
			return err
		}
	}

	opening, endOpening := a.beginOpening(ctx)
	defer endOpening()
	w, openErr := a.openFirst(opening, k, record)
	if openErr != nil && opening.Err() != nil && ctx.Err() == nil {
		// The account was suspended meanwhile, which says more.
		if _, err := a.lease(record.AEKID); err != nil {
			openErr = err
		}
	}
	if openErr != nil && (r.WhenLocked != api.WhenLockedSuspended || !isLocked(openErr)) {
		return fmt.Errorf("mount volume %s: %w", k, openErr)
	}
	// From here on a suspension waits until the volume is among the mounted ones.
	m, err := a.newMounted(ctx, k, record, config)
	if err != nil {
		if w != nil {
			w.stop()
		}
		return err
	}
	m.errno = errnoOf(a.record().Policy.SuspendErrno)
	if w != nil {
		m.setAEK(w.aekID) // the superblock's word, not the record's
	}
	if openErr != nil {
		m.setReason(openErr.Error())
		m.mu.phase = phaseSuspended // the loop, which is not running yet, begins with it
	}
	if err := a.changeVolume(name, func(v *account.VolumeRecord) bool {
		v.MountPoint, v.Options = config.Mountpoint, r.Options
		return true
	}); err != nil {
		// Only the clearing up after a crash needs it.
		a.s.log.Warn("the mount point cannot be noted", "vol", k.String(), "err", err)
	}
	a.event(account.Event{Kind: account.AuditVolumeMounted, Volume: name, Detail: map[string]string{"mountPoint": config.Mountpoint}})
	a.s.mu.Lock()
	a.s.mu.mounted[k] = m
	a.s.mu.Unlock()
	go m.run(w)
	return nil
}

// isLocked says whether a mount failed because the key is not available, which
// may change while the volume is mounted.
func isLocked(err error) bool { return isKeyError(err) || isSuspended(err) }

// lockWait is how long a mount waits for a volume that another process has
// open: a worker of a daemon that was killed needs a moment to drain.
const lockWait = 3 * time.Second

// openFirst starts the first worker of a mount.
func (a *acct) openFirst(ctx context.Context, k volumeKey, record *account.VolumeRecord) (*workerProcess, error) {
	if err := a.settled(ctx, record.AEKID); err != nil {
		return nil, err
	}
	until := time.Now().Add(lockWait)
	for {
		w, err := a.openWorker(ctx, k, 0)
		var e *api.Error
		if err == nil || !errors.As(err, &e) || e.Code != api.CodeBusy || time.Now().After(until) {
			return w, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// changeVolume changes a volume's record; change reports whether it did.
func (a *acct) changeVolume(name string, change func(*account.VolumeRecord) bool) error {
	a.volumes.Lock()
	defer a.volumes.Unlock()
	v, err := a.s.dir.Volume(a.name, name)
	if err != nil || !change(v) {
		return err
	}
	return a.s.dir.SaveVolume(a.name, v)
}

// openWorker starts a worker and waits until it has opened the volume, which must
// have the operations up to answered.
func (a *acct) openWorker(ctx context.Context, k volumeKey, answered uint64) (*workerProcess, error) {
	release, err := a.s.exclusive(ctx, k)
	if err != nil {
		return nil, err
	}
	defer release()
	seen, err := newest(a.s.dir, k)
	if err != nil {
		a.s.log.Warn("how far the volume had got is not known", "vol", k.String(), "err", err)
		seen = nil
	}
	w, err := a.spawner(k.name).start(ctx, worker.Start{
		Mode: worker.ModeServe, Dir: a.s.dir.VolumeDir(k.account, k.name), Label: k.String(),
		Lease:  &worker.Lease{Deadline: worker.In(openTimeout)}, // the real one follows with the key known
		Newest: seen, Answered: answered,
	}, func(id string) (*account.AEKRecord, error) {
		if _, err := a.lease(id); err != nil {
			return nil, err
		}
		return a.findAEK(id)
	}, nil)
	if err != nil {
		return nil, err
	}
	if err := w.waitReady(ctx); err != nil {
		return nil, err
	}
	deadline, err := a.lease(w.aekID) // it may have ended meanwhile
	if err != nil {
		w.stop()
		return nil, err
	}
	if w.conn.Send(worker.Request{Lease: &worker.Lease{Deadline: deadline}}) != nil {
		w.stop()
		return nil, w.failure()
	}
	return w, nil
}

// newMounted mounts the device and prepares the volume's loop.
func (a *acct) newMounted(ctx context.Context, k volumeKey, record *account.VolumeRecord, config fs.MountConfig) (*mounted, error) {
	device, err := fs.Mount(ctx, config)
	if err != nil {
		return nil, err
	}
	var session [8]byte
	rand.Read(session[:])
	m := &mounted{
		account: k.account, name: k.name, mountPoint: config.Mountpoint,
		device: device, config: config,
		session:     binary.NativeEndian.Uint64(session[:]) | 1, // 0 would switch exactly-once off
		log:         a.s.log.With("vol", k.String()),
		hangTimeout: a.s.cfg.HangTimeout, patience: a.s.cfg.Patience,
		commands: make(chan command), ended: make(chan struct{}),
	}
	m.open = func(ctx context.Context) (*workerProcess, error) {
		return a.openWorker(ctx, k, device.Nodes.Answered())
	}
	m.setAEK(record.AEKID)
	m.lease = func() (int64, error) { return a.lease(m.aek()) }
	m.blocks = func() bool { return a.record().Policy.OnSuspend == account.OnSuspendBlock }
	m.event = func(e account.Event) {
		e.Volume = k.name
		a.event(e)
	}
	m.remember = func(p worker.Position) error { return rememberPosition(a.s.dir, k, p) }
	m.gone = func() { a.forgetMount(k) }
	m.keeping = a.s.keeping
	m.keeping.hold(keepHold{
		ID: device.Conn, Label: k.String(), Resend: device.Resend, Errno: int(errnoOf(a.record().Policy.SuspendErrno)),
	}, device.File, device.Nodes.File())
	if !device.Resend {
		m.log.Warn("this kernel cannot repeat the requests of a worker that died: they fail with EIO (Linux 6.9 or newer can)")
	}
	return m, nil
}

// forgetMount takes a volume whose mount has ended off the list.
func (a *acct) forgetMount(k volumeKey) {
	if err := a.changeVolume(k.name, func(v *account.VolumeRecord) bool {
		v.MountPoint, v.Options = "", nil
		return v.KeySource != "" // not one that was lost
	}); err != nil {
		a.s.log.Warn("the volume's record cannot be changed", "vol", k.String(), "err", err)
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	delete(a.s.mu.mounted, k)
}

// checkMountPoint returns the path at which to mount, without links. Paths
// below our own mounts are refused before anything touches them: this process
// must never wait for itself.
func (s *Supervisor) checkMountPoint(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", api.Errorf(api.CodeInvalid, fmt.Sprintf("the mount point %q is not an absolute path", path))
	}
	path = filepath.Clean(path)
	if err := s.refuseOwn(path); err != nil {
		return "", err
	}
	if cleared, err := fs.ClearStale(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	} else if cleared {
		s.log.Info("cleared a stale mount", "mountPoint", path)
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", api.Errorf(api.CodeNotFound, fmt.Sprintf("the mount point %s does not exist", path))
	}
	if err != nil {
		return "", api.Errorf(api.CodeInvalid, fmt.Sprintf("the mount point %s cannot be used: %v", path, err))
	}
	if err := s.refuseOwn(real); err != nil {
		return "", err
	}
	st, err := os.Lstat(real)
	if err != nil {
		return "", api.Errorf(api.CodeInvalid, fmt.Sprintf("the mount point %s cannot be used: %v", path, err))
	}
	if !st.IsDir() {
		return "", api.Errorf(api.CodeInvalid, fmt.Sprintf("the mount point %s is not a directory", path))
	}
	if isMountPoint(real) {
		return "", api.Errorf(api.CodeBusy, fmt.Sprintf("something is already mounted on %s", path))
	}
	if below(real, s.dir.Path()) {
		return "", api.Errorf(api.CodeInvalid, fmt.Sprintf("the mount point %s is inside the state directory", path))
	}
	d, err := os.Open(real)
	if err != nil {
		return "", api.Errorf(api.CodeInvalid, fmt.Sprintf("the mount point %s cannot be used: %v", path, err))
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); !errors.Is(err, io.EOF) {
		return "", api.Errorf(api.CodeBusy, fmt.Sprintf("the mount point %s is not empty", path))
	}
	return real, nil
}

// refuseOwn refuses a path at or below a mount of ours.
func (s *Supervisor) refuseOwn(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, m := range s.mu.mounted {
		if path == m.mountPoint {
			return api.Errorf(api.CodeBusy, fmt.Sprintf("volume %s is already mounted on %s", k, path))
		}
		if below(path, m.mountPoint) {
			return api.Errorf(api.CodeInvalid, fmt.Sprintf("the mount point %s is inside volume %s", path, k))
		}
	}
	return nil
}

// below says whether path is dir or inside it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// isMountPoint says whether something is mounted on a directory.
func isMountPoint(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
