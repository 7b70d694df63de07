package main

import (
	"cmkfs/account"
	"cmkfs/hsm"
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
	source, err := keySource(c.EncryptionKeySource)
	if err != nil {
		return err
	}
	if _, _, err := s.account(); err != nil {
		return err
	}
	client, name, err := s.daemonFor()
	if err != nil {
		return err
	}
	v, err := client.CreateVolume(s.ctx, name, api.CreateVolume{Name: c.Name, QuotaBytes: uint64(c.Quota), KeySource: source})
	if err != nil {
		return err
	}
	return s.showVolume(v, c.Output)
}

// keySource returns the key source that is meant; "" stays "".
func keySource(said string) (string, error) {
	if said == "" {
		return "", nil
	}
	return (&keyFlags{KeySource: said}).source(nil)
}

type volumeUpdateCmd struct {
	Volume              string `arg:"" help:"Name of the volume."`
	EncryptionKeySource string `required:"" placeholder:"SOURCE" help:"The key source it should have; no other than it has is accepted."`
	outputFlag
}

// Help has the command's example.
func (*volumeUpdateCmd) Help() string {
	return "Asks for a key source as az netappfiles volume update does. A volume keeps the one it was created with, so only that is accepted.\n\nExample:\n  cmkfsd volume update home --encryption-key-source Microsoft.KeyVault"
}

// Run compares: nothing about a volume can be changed this way.
func (c *volumeUpdateCmd) Run(s *session) error {
	source, err := keySource(c.EncryptionKeySource)
	if err != nil {
		return err
	}
	v, err := s.volume(c.Volume)
	if err != nil {
		return err
	}
	if source != v.KeySource {
		err := api.Refuse(api.CodeInvalid, hsm.SourceFixed)
		if v.KeySource == hsm.SourcePlatform {
			err.Hint = "all platform-managed volumes of an account move to its customer-managed key at once: cmkfsd account transition-to-cmk"
		}
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
