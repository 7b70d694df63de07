package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fsType is the type of our mounts in mountinfo.
const fsType = "fuse.cmkfs"

// Device is the supervisor's end of a mounted volume. It lives from Mount to
// Close, across all workers. Somebody must read its requests all the time: a
// worker, or an Answerer.
type Device struct {
	File   *os.File   // /dev/fuse, blocking; inherited by workers, never cloned
	Init   []byte     // the kernel's INIT request, for ServeConfig.Init
	Nodes  *NodeTable // for ServeConfig.Nodes
	Resend bool       // the kernel can send a dead worker's requests again
	Conn   uint32     // connection number, as in /sys/fs/fuse/connections
	Mount  MountConfig
}

// Mount mounts a volume and agrees with the kernel on the protocol. The mount
// is visible at once, and its requests wait until somebody reads them.
func Mount(ctx context.Context, cfg MountConfig) (*Device, error) {
	flags, err := cfg.flags()
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", cfg.Mountpoint, err)
	}
	nodes, err := NewNodeTable()
	if err != nil {
		return nil, err
	}
	// Not os.OpenFile, which would make the descriptor non-blocking.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		nodes.Close()
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	d := &Device{File: os.NewFile(uintptr(fd), "/dev/fuse"), Nodes: nodes, Mount: cfg}
	if err := unix.Mount(cfg.Source, cfg.Mountpoint, fsType, flags, cfg.data(fd)); err != nil {
		d.Close()
		return nil, fmt.Errorf("mount %s: %w", cfg.Mountpoint, err)
	}
	if err := d.start(ctx); err != nil {
		// Closing the descriptor ends the connection, so that the unmount
		// waits for nobody.
		d.Close()
		unix.Unmount(cfg.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		return nil, fmt.Errorf("mount %s: %w", cfg.Mountpoint, err)
	}
	return d, nil
}

// start answers INIT and finds out the connection's number.
func (d *Device) start(ctx context.Context) error {
	init, err := d.readInit(ctx)
	if err != nil {
		return err
	}
	d.Init, d.Resend = init, resendOffered(init)
	log := slog.New(slog.DiscardHandler)
	p := fuse.NewProtocolServer(fuse.NewDefaultRawFileSystem(), d.Mount.protocolOptions(log))
	out, err := answerInit(p, init)
	if err != nil {
		return err
	}
	if err := reply(int(d.File.Fd()), out); err != nil {
		return err
	}
	m, ok, err := findMount(d.Mount.Mountpoint)
	if err != nil {
		return err
	}
	if !ok || m.major != 0 {
		return errors.New("the mount is not in /proc/self/mountinfo")
	}
	d.Conn = m.minor
	return d.tune()
}

func (d *Device) readInit(ctx context.Context) ([]byte, error) {
	fd := int(d.File.Fd())
	buf := make([]byte, bufferSize)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("wait for INIT: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("wait for INIT: %w", err)
		}
		if n < 1 {
			continue
		}
		if n, err = unix.Read(fd, buf); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("read INIT: %w", err)
		}
		return append([]byte(nil), buf[:n]...), nil
	}
}

// tune raises the read-ahead, which is 128 KiB for every FUSE file system. A
// kernel without the knob only reads in smaller pieces.
func (d *Device) tune() error {
	dir := fmt.Sprintf("/sys/class/bdi/0:%d/", d.Conn)
	err := os.WriteFile(dir+"read_ahead_kb", []byte(strconv.Itoa(readAheadKiB)), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("raise the read-ahead: %w", err)
	}
	return nil
}

// InvalidateAll makes the kernel give up what it caches of the volume and
// returns the number of nodes. It waits for requests in flight, so somebody
// must be answering, and it must not be the caller.
func (d *Device) InvalidateAll(ctx context.Context) (nodes int, err error) {
	n, err := invalidateAll(ctx, int(d.File.Fd()), d.Nodes)
	if errors.Is(err, errGone) {
		return n, nil
	}
	return n, err
}

// Unmount unmounts the volume: dirty pages are written back, so somebody must be
// answering. A volume in use is EBUSY; with lazy it disappears from the name
// space at once and the connection ends with its last user. When ctx ends first
// the unmount goes on by itself.
func (d *Device) Unmount(ctx context.Context, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	done := make(chan error, 1)
	go func() { done <- unix.Unmount(d.Mount.Mountpoint, flags) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("unmount %s: %w", d.Mount.Mountpoint, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: %w", d.Mount.Mountpoint, ctx.Err())
	}
}

// Abort ends the connection, whatever hangs in it: every request fails with
// ENOTCONN. It is the last resort, since mapped pages stay readable after it.
func (d *Device) Abort() error { return abortConnection(d.Conn) }

// abortConnection ends a connection by its number. One that is gone is
// os.ErrNotExist.
func abortConnection(conn uint32) error {
	const control = "/sys/fs/fuse/connections"
	path := fmt.Sprintf("%s/%d/abort", control, conn)
	err := os.WriteFile(path, []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		// Most systems mount the control file system at boot.
		if unix.Mount("fusectl", control, "fusectl", 0, "") == nil {
			err = os.WriteFile(path, []byte("1"), 0)
		}
	}
	if err != nil {
		return fmt.Errorf("abort the FUSE connection: %w", err)
	}
	return nil
}

// Alive reports whether the file system is still mounted somewhere.
func (d *Device) Alive() bool {
	fds := []unix.PollFd{{Fd: int32(d.File.Fd()), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	return err != nil || fds[0].Revents&unix.POLLERR == 0
}

// Close closes the descriptor and the node table, once the file system is
// unmounted and workers and Answerer have ended. If it is still mounted and no
// worker holds the descriptor, every access to it fails with ENOTCONN.
func (d *Device) Close() error {
	return errors.Join(d.File.Close(), d.Nodes.Close())
}
