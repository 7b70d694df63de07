package store

import (
	"errors"
	"os"
	"slices"
)

// SectorSize is the unit, in bytes, in which a crash of the host keeps or
// drops what was written and not synced.
const SectorSize = 512

// sector is never changed once it is in an image, so images share sectors; a
// nil *sector is all zeros.
type sector [SectorSize]byte

var zeroSector sector

// image is the content of one of the Recorder's files.
type image struct {
	size    int64 // bytes
	sectors []*sector
	shared  bool // another image has the same slice: copy it before changing it

	// external marks a file that lives on the host, too, for bbolt to map it.
	external bool
}

// clone returns a copy that shares the sectors.
func (m *image) clone() *image {
	m.shared = true
	c := *m
	return &c
}

// own makes the slice of sectors this image's and at least n long.
func (m *image) own(n int) {
	if m.shared {
		m.sectors, m.shared = slices.Clone(m.sectors), false
	}
	if n > len(m.sectors) {
		m.sectors = append(m.sectors, make([]*sector, n-len(m.sectors))...)
	}
}

// sector returns sector i for reading.
func (m *image) sector(i int64) *sector {
	if i < int64(len(m.sectors)) && m.sectors[i] != nil {
		return m.sectors[i]
	}
	return &zeroSector
}

// read copies bytes from off, inside size, to p.
func (m *image) read(p []byte, off int64) {
	for len(p) > 0 {
		n := copy(p, m.sector(off / SectorSize)[off%SectorSize:])
		p, off = p[n:], off+int64(n)
	}
}

// overlay returns the sectors that writing p at off makes of the image's.
func (m *image) overlay(p []byte, off int64) []*sector {
	var out []*sector
	for len(p) > 0 {
		s := *m.sector(off / SectorSize)
		n := copy(s[off%SectorSize:], p)
		out = append(out, &s)
		p, off = p[n:], off+int64(n)
	}
	return out
}

// overlayZeros does so for zeros in [off, end), with nil for whole sectors.
func (m *image) overlayZeros(off, end int64) []*sector {
	var out []*sector
	for off < end {
		next := min((off/SectorSize+1)*SectorSize, end)
		if next-off == SectorSize {
			out = append(out, nil)
		} else {
			s := *m.sector(off / SectorSize)
			clear(s[off%SectorSize : off%SectorSize+next-off])
			out = append(out, &s)
		}
		off = next
	}
	return out
}

// put stores a sector of a file that had liveSize bytes when it was written.
func (m *image) put(i int64, s *sector, liveSize int64) {
	m.own(int(i + 1))
	m.sectors[i] = s
	m.size = max(m.size, min(liveSize, (i+1)*SectorSize))
}

// has reports whether a sector already is what a write makes of it.
func (m *image) has(i int64, c *change) bool {
	return m.size >= min(c.liveSize, (i+1)*SectorSize) && *m.sector(i) == *c.sectors[i-c.first]
}

// resize sets the size; what a later growth shows again are zeros.
func (m *image) resize(size int64) {
	keep := (size + SectorSize - 1) / SectorSize
	m.own(0)
	if int64(len(m.sectors)) > keep {
		m.sectors = m.sectors[:keep:keep]
	}
	if edge := min(size, m.size); edge%SectorSize != 0 && edge/SectorSize < int64(len(m.sectors)) {
		s := *m.sector(edge / SectorSize)
		clear(s[edge%SectorSize:])
		m.sectors[edge/SectorSize] = &s
	}
	m.size = size
}

// write makes a file on the host with this content.
func (m *image) write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(m.size)
	var run []byte
	for i := 0; i <= len(m.sectors) && err == nil; i++ {
		if i < len(m.sectors) && m.sectors[i] != nil {
			run = append(run, m.sectors[i][:]...)
			continue
		}
		if len(run) > 0 {
			_, err = f.WriteAt(run[:min(int64(len(run)), m.size-int64(i*SectorSize-len(run)))], int64(i*SectorSize-len(run)))
			run = run[:0]
		}
	}
	return errors.Join(err, f.Close())
}
