package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cmkfs/hsm/azure/emulator"
)

// smallSize is the size of a disk that is filled, in bytes.
const smallSize = 512 << 20

// diskDrills are those of the host's disk.
func diskDrills() []Drill {
	yes, no := true, false
	return []Drill{{
		Name: "disk-full-while-suspending", Title: "the host's disk is full when the key is disabled", Source: Vault, Outcome: Stops,
		Errno: "EKEYREVOKED", SmallDisk: true, Own: "the disk itself is filled",
		inject: func(_ context.Context, s *scene) error {
			if err := s.fillDisk(); err != nil {
				return err
			}
			return s.vault(emulator.Command{Action: emulator.KeySet, Key: keyName, Enabled: &no})
		},
		heal: func(_ context.Context, s *scene) error {
			return errors.Join(s.vault(emulator.Command{Action: emulator.KeySet, Key: keyName, Enabled: &yes}), os.Remove(s.filler()))
		},
	}}
}

// smallDisk mounts a disk of its own below the state directory.
func (s *scene) smallDisk(state string) error {
	if err := os.Mkdir(state, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("cmkfs-drill", state, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("size=%d,mode=700", smallSize)); err != nil {
		return fmt.Errorf("a small disk: %w", err)
	}
	s.cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
	return nil
}

func (s *scene) filler() string { return filepath.Join(s.state.Path(), "full") }

// fillDisk writes until nothing fits any more.
func (s *scene) fillDisk() error {
	f, err := os.Create(s.filler())
	if err != nil {
		return err
	}
	defer f.Close()
	for b := make([]byte, 64<<10); ; {
		if _, err := f.Write(b); errors.Is(err, unix.ENOSPC) {
			if len(b) == 1 {
				return nil
			}
			b = b[:len(b)/2]
		} else if err != nil {
			return err
		}
	}
}
