package account

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// VolumeDir returns the folder of a volume's store.
func (d *Dir) VolumeDir(account, volume string) string {
	return filepath.Join(d.path, "accounts", account, "volumes", volume)
}

// Volumes returns the names of an account's volumes, sorted; one that lost its
// superblock is among them.
func (d *Dir) Volumes(account string) ([]string, error) {
	return listNames(d.accountFile(account, "volumes"), "volume", "")
}

// Volume reads what is known about a volume outside its superblock. If
// volume.json was lost, the record has the name only.
func (d *Dir) Volume(account, volume string) (*VolumeRecord, error) {
	if err := CheckName("volume", volume); err != nil {
		return nil, err
	}
	if _, err := d.Account(account); err != nil {
		return nil, err
	}
	dir := d.VolumeDir(account, volume)
	if _, err := os.Lstat(dir); err != nil {
		return nil, failf(ErrNotFound, "there is no volume %q in account %s", volume, account)
	}
	v := VolumeRecord{}
	err := readJSON(filepath.Join(dir, "volume.json"), &v)
	if errors.Is(err, fs.ErrNotExist) {
		return &VolumeRecord{Version: FormatVersion, Name: volume}, nil
	}
	if err != nil {
		return nil, err
	}
	return &v, v.Validate()
}

// SaveVolume replaces a volume's record.
func (d *Dir) SaveVolume(account string, v *VolumeRecord) error {
	if err := v.Validate(); err != nil {
		return err
	}
	return writeJSON(filepath.Join(d.VolumeDir(account, v.Name), "volume.json"), v)
}

// PendingVolume is a volume being made. Exactly one of Commit and Abort ends
// it; a crash before Commit leaves nothing that Volumes would show.
type PendingVolume struct {
	half, final string
}

// NewVolume begins a volume. The caller formats the store in Dir.
func (d *Dir) NewVolume(account, volume string) (*PendingVolume, error) {
	if err := CheckName("volume", volume); err != nil {
		return nil, err
	}
	if _, err := d.Account(account); err != nil {
		return nil, err
	}
	p := &PendingVolume{half: d.VolumeDir(account, "."+volume), final: d.VolumeDir(account, volume)}
	if _, err := os.Lstat(p.final); err == nil {
		return nil, failf(ErrExist, "there is already a volume %q in account %s", volume, account)
	}
	if err := os.RemoveAll(p.half); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.half, 0o700); err != nil {
		return nil, err
	}
	return p, nil
}

// Dir returns the folder to format.
func (p *PendingVolume) Dir() string { return p.half }

// Commit stores the record and shows the volume under its name.
func (p *PendingVolume) Commit(v *VolumeRecord) error {
	if err := v.Validate(); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(p.half, "volume.json"), v); err != nil {
		return err
	}
	if err := os.Rename(p.half, p.final); err != nil {
		return err
	}
	return syncDir(filepath.Dir(p.final))
}

// Abort removes what was made.
func (p *PendingVolume) Abort() error { return os.RemoveAll(p.half) }

// DeleteVolume removes a volume with everything in it. The caller made sure
// that no process serves it.
func (d *Dir) DeleteVolume(account, volume string) error {
	if err := CheckName("volume", volume); err != nil {
		return err
	}
	dir := d.VolumeDir(account, volume)
	if _, err := os.Lstat(dir); err != nil {
		return failf(ErrNotFound, "there is no volume %q in account %s", volume, account)
	}
	return removeFolder(dir)
}
