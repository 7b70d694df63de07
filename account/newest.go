package account

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Position is how far a volume had got when its worker last told: only what was
// durable. A volume that is found behind it is an older copy.
type Position struct {
	Version     int    `json:"version"`
	VolumeID    string `json:"volumeId"`    // hexadecimal
	Checkpoints uint64 `json:"checkpoints"` // written in the volume's life
	Operation   uint64 `json:"operation"`   // number of the last durable one
	SetHash     string `json:"setHash"`     // of the index as of the last checkpoint, hexadecimal
}

func (d *Dir) positionFile(account, volume string) string {
	return d.accountFile(account, filepath.Join("newest", volume+".json"))
}

// Position returns what is known of a volume, nil if nothing is.
func (d *Dir) Position(account, volume string) (*Position, error) {
	var p Position
	err := readJSON(d.positionFile(account, volume), &p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &p, err
}

// SavePosition replaces what is known of a volume. It lies outside the volume's
// folder, so that a copy of that folder does not bring its own.
func (d *Dir) SavePosition(account, volume string, p Position) error {
	p.Version = FormatVersion
	path := d.positionFile(account, volume)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return writeJSON(path, p)
}

// ForgetPosition makes any state of a volume acceptable.
func (d *Dir) ForgetPosition(account, volume string) error {
	if err := os.Remove(d.positionFile(account, volume)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
