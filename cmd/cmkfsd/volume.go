package main

import (
	"os"

	"cmkfs/account"
	"cmkfs/supervisor/api"
)

type volumeCreateCmd struct {
	Name                string `required:"" placeholder:"V" help:"Name of the volume."`
	Quota               size   `placeholder:"SIZE" help:"Most data it may hold, for example 100GiB (unlimited)."`
	EncryptionKeySource string `placeholder:"SOURCE" help:"Microsoft.NetApp, Microsoft.KeyVault or PKCS11 (the account's)."`
	outputFlag
}

// Help has the command's example.
func (*volumeCreateCmd) Help() string {
	return "The key source of a volume cannot be changed later.\n\nExample:\n  cmkfsd volume create --name home --quota 100GiB"
}

// Run makes the volume.
func (c *volumeCreateCmd) Run(s *session) error {
	if err := account.CheckName("volume", c.Name); err != nil {
		return err
	}
	source := ""
	if c.EncryptionKeySource != "" {
		var err error
		if source, err = (&keyFlags{KeySource: c.EncryptionKeySource}).source(nil); err != nil {
			return err
		}
	}
	if _, _, err := s.account(); err != nil {
		return err
	}
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	v, err := client.CreateVolume(s.ctx, name, api.CreateVolume{Name: c.Name, QuotaBytes: uint64(c.Quota), KeySource: source})
	if err != nil && api.ErrorOf(err).Code == api.CodeInvalid && source != "" {
		return &hinted{err, "give the account such a key first: cmkfsd account update --help"}
	}
	if err != nil {
		return err
	}
	return s.showVolume(v, c.Output)
}

func (s *session) showVolume(v api.VolumeStatus, output string) error {
	if output == "json" {
		return s.printJSON(v)
	}
	fields := []string{"name", v.Name, "state", v.State, "reason", v.Reason, "mount point", v.MountPoint, "key source", v.KeySource, "quota", showQuota(v.QuotaBytes)}
	if v.State == api.VolumeOnline {
		fields = append(fields, "used", showBytes(v.UsedBytes), "files", count(v.Files))
	}
	s.printFields(fields...)
	return nil
}

type volumeListCmd struct{ outputFlag }

// Help has the command's example.
func (*volumeListCmd) Help() string {
	return "Works without a daemon; then every volume is unmounted.\n\nExample:\n  cmkfsd volume list"
}

// Run lists the volumes.
func (c *volumeListCmd) Run(s *session) error {
	vols, err := s.volumes()
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return s.printJSON(vols)
	}
	var rows [][]string
	for _, v := range vols {
		rows = append(rows, volumeRow(v))
	}
	s.printTable(volumeHeader, rows)
	return nil
}

var volumeHeader = []string{"name", "state", "mount point", "key source", "quota", "used", "files"}

func volumeRow(v api.VolumeStatus) []string {
	used, files := "", ""
	if v.State == api.VolumeOnline {
		used, files = showBytes(v.UsedBytes), count(v.Files)
	}
	return []string{v.Name, v.State, v.MountPoint, v.KeySource, showQuota(v.QuotaBytes), used, files}
}

// volumes returns the account's volumes: what the daemon says, or the files if
// there is none.
func (s *session) volumes() ([]api.VolumeStatus, error) {
	d, a, err := s.account()
	if err != nil {
		return nil, err
	}
	client, _, err := s.client()
	if err != nil {
		return nil, err
	}
	status, err := client.Status(s.ctx)
	if err == nil {
		for _, known := range status.Accounts {
			if known.Name == a.Name {
				return append([]api.VolumeStatus{}, known.Volumes...), nil
			}
		}
		return nil, api.Errorf(api.CodeFailed, "the daemon does not know account "+a.Name+": its log says why")
	}
	if !isNoDaemon(err) {
		return nil, err
	}
	names, err := d.Volumes(a.Name)
	if err != nil {
		return nil, err
	}
	vols := []api.VolumeStatus{}
	for _, name := range names {
		v, err := d.Volume(a.Name, name)
		if err != nil {
			return nil, err
		}
		vols = append(vols, api.VolumeStatus{Name: name, State: api.VolumeUnmounted, KeySource: v.KeySource, QuotaBytes: v.QuotaBytes})
	}
	return vols, nil
}

type volumeShowCmd struct {
	Volume string `arg:"" help:"Name of the volume."`
	outputFlag
}

// Help has the command's example.
func (*volumeShowCmd) Help() string {
	return "Works without a daemon.\n\nExample:\n  cmkfsd volume show home -o json"
}

// Run shows a volume.
func (c *volumeShowCmd) Run(s *session) error {
	v, err := s.volume(c.Volume)
	if err != nil {
		return err
	}
	return s.showVolume(v, c.Output)
}

// volume returns one of the account's volumes.
func (s *session) volume(name string) (api.VolumeStatus, error) {
	if err := account.CheckName("volume", name); err != nil {
		return api.VolumeStatus{}, err
	}
	vols, err := s.volumes()
	if err != nil {
		return api.VolumeStatus{}, err
	}
	for _, v := range vols {
		if v.Name == name {
			return v, nil
		}
	}
	return api.VolumeStatus{}, api.Errorf(api.CodeNotFound, "there is no volume \""+name+"\" in this account")
}

type volumeDeleteCmd struct {
	Volume string `arg:"" help:"Name of the volume."`
}

// Help has the command's example.
func (*volumeDeleteCmd) Help() string {
	return "The data cannot be brought back.\n\nExample:\n  cmkfsd volume delete home"
}

// Run deletes the volume.
func (c *volumeDeleteCmd) Run(s *session) error {
	if _, err := s.volume(c.Volume); err != nil {
		return err
	}
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	return client.DeleteVolume(s.ctx, name, c.Volume)
}

type volumeMountCmd struct {
	Volume     string   `arg:"" help:"Name of the volume."`
	MountPoint string   `arg:"" name:"mountpoint" help:"An empty directory."`
	Options    []string `short:"o" placeholder:"OPTION" help:"Mount options, separated by commas: ro, nosuid, nodev, noexec, noatime, writeback, …"`
	WhenLocked string   `enum:"fail,suspended" default:"fail" placeholder:"fail|suspended" help:"What to do if the key is not available: fail, or mount the volume suspended, so that nothing is written below the mount point."`
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
	_, err = client.Mount(s.ctx, name, c.Volume, api.Mount{MountPoint: point, Options: c.Options, WhenLocked: c.WhenLocked})
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

func (c *oneOrAll) check() error {
	if (c.Volume != "") == c.All {
		return &usageError{message: "name one volume, or all of them with --all"}
	}
	return nil
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
	if err := c.check(); err != nil {
		return err
	}
	client, name, err := s.runningDaemonFor()
	if err != nil {
		return err
	}
	if c.All {
		_, err = client.SuspendAccount(s.ctx, name)
	} else {
		_, err = client.SuspendVolume(s.ctx, name, c.Volume)
	}
	return err
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
	if err := c.check(); err != nil {
		return err
	}
	client, name, err := s.runningDaemonFor()
	if err != nil {
		return err
	}
	if c.All {
		_, err = client.RestoreAccount(s.ctx, name)
	} else {
		_, err = client.RestoreVolume(s.ctx, name, c.Volume)
	}
	return err
}
