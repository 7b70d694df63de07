package main

import (
	"os"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

type volumeMountCmd struct {
	Volume      string   `arg:"" help:"Name of the volume."`
	MountPoint  string   `arg:"" name:"mountpoint" help:"An empty directory."`
	Options     []string `short:"o" placeholder:"OPTION" help:"Mount options, separated by commas: ro, nosuid, nodev, noexec, noatime, strictatime, remount, writeback, …"`
	WhenLocked  string   `enum:"fail,suspended" default:"fail" placeholder:"fail|suspended" help:"What to do if the key is not available: fail, or mount the volume suspended, so that nothing is written below the mount point."`
	AcceptOlder bool     `help:"Go on with this copy of the volume although it is older than the one last in use, or another."`
}

// Help has the command's example.
func (*volumeMountCmd) Help() string {
	return "Starts a daemon in the background if none runs. In /etc/fstab: ACCOUNT/VOLUME MOUNTPOINT cmkfs OPTIONS 0 0.\n\nExample:\n  cmkfsd volume mount home /srv/home"
}

// Run mounts the volume.
func (c *volumeMountCmd) Run(s *session) error {
	if err := account.CheckName("volume", c.Volume); err != nil {
		return err
	}
	point, err := absolute(c.MountPoint)
	if err != nil {
		return err
	}
	d, a, err := s.account()
	if err != nil {
		return err
	}
	if _, err := d.Volume(a.Name, c.Volume); err != nil {
		return err
	}
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	_, err = client.Mount(s.ctx, name, c.Volume, api.Mount{MountPoint: point, Options: c.Options, WhenLocked: c.WhenLocked, AcceptOlder: c.AcceptOlder})
	if err != nil && os.Geteuid() != 0 && api.ErrorOf(err).Code == api.CodeFailed {
		return &hinted{err, "only root may mount: run the daemon as root"}
	}
	return err
}

type volumeUnmountCmd struct {
	Volume string `arg:"" help:"Name of the volume."`
	Lazy   bool   `help:"Detach it although files are open; it is served until they are closed."`
}

// Help has the command's example.
func (*volumeUnmountCmd) Help() string {
	return "umount MOUNTPOINT does the same.\n\nExample:\n  cmkfsd volume unmount home"
}

// Run unmounts the volume.
func (c *volumeUnmountCmd) Run(s *session) error {
	client, name, err := s.runningDaemonFor()
	if err != nil {
		return err
	}
	_, err = client.Unmount(s.ctx, name, c.Volume, api.Unmount{Lazy: c.Lazy})
	return err
}

// oneOrAll is one volume, or --all of the account.
type oneOrAll struct {
	Volume string `arg:"" optional:"" help:"Name of the volume."`
	All    bool   `help:"All volumes of the account."`
}

// do has the daemon do something to the account, or to the volume.
func (c *oneOrAll) do(s *session, all func(*api.Client, string) error, one func(*api.Client, string, string) error) error {
	if (c.Volume != "") == c.All {
		return &usageError{message: "name one volume, or all of them with --all"}
	}
	client, name, err := s.runningDaemonFor()
	if err != nil {
		return err
	}
	if c.All {
		return all(client, name)
	}
	return one(client, name, c.Volume)
}

type volumeSuspendCmd struct {
	oneOrAll
}

// Help has the command's example.
func (*volumeSuspendCmd) Help() string {
	return "Everything answered so far is stored, caches are emptied, and the processes that hold the key end. Programs get \"Required key not available\" until access is restored.\n\nExample:\n  cmkfsd volume suspend --all"
}

// Run locks.
func (c *volumeSuspendCmd) Run(s *session) error {
	return c.do(s, func(client *api.Client, account string) error {
		_, err := client.SuspendAccount(s.ctx, account)
		return err
	}, func(client *api.Client, account, volume string) error {
		_, err := client.SuspendVolume(s.ctx, account, volume)
		return err
	})
}

type volumeRestoreCmd struct {
	oneOrAll
}

// Help has the command's example.
func (*volumeRestoreCmd) Help() string {
	return "Works if the key decrypts; programs go on under the same open files.\n\nExample:\n  cmkfsd volume restore-access --all"
}

// Run gives access back.
func (c *volumeRestoreCmd) Run(s *session) error {
	return c.do(s, func(client *api.Client, account string) error {
		_, err := client.RestoreAccount(s.ctx, account)
		return err
	}, func(client *api.Client, account, volume string) error {
		_, err := client.RestoreVolume(s.ctx, account, volume)
		return err
	})
}
