package worker

import (
	"encoding/hex"
	"time"

	"cmkfs/meta"
)

// Position is how far a volume has got, durably: see meta.Position.
type Position struct {
	VolumeID    string `json:"volumeId"` // hexadecimal
	Checkpoints uint64 `json:"checkpoints"`
	Operation   uint64 `json:"operation"`
	SetHash     string `json:"setHash"` // hexadecimal
}

// positionEvery is how often a serving worker tells its volume's position, if
// it has changed. An older copy of what is younger is not noticed.
const positionEvery = 10 * time.Second

// known is the position as the volume compares it; nil if it is of another
// volume, which had the name before.
func (p *Position) known(id [16]byte) *meta.Position {
	if p == nil || p.VolumeID != hex.EncodeToString(id[:]) {
		return nil
	}
	m := &meta.Position{Checkpoints: p.Checkpoints, Operation: p.Operation}
	hash, err := hex.DecodeString(p.SetHash)
	if err != nil || len(hash) != len(m.SetHash) {
		return nil
	}
	copy(m.SetHash[:], hash)
	return m
}

// tellPosition sends the volume's position if it has changed.
func (s *serving) tellPosition() {
	p := s.volume.Position()
	if p == s.told {
		return
	}
	s.told = p
	// A supervisor that is gone is noticed by the loop.
	_ = s.conn.Send(Reply{Position: &Position{
		VolumeID: hex.EncodeToString(s.id[:]), Checkpoints: p.Checkpoints, Operation: p.Operation, SetHash: hex.EncodeToString(p.SetHash[:]),
	}})
}
