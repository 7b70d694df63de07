package meta

import (
	"encoding/binary"
	"errors"
)

const (
	pageSize    = 4096 // bytes: the unit of mapping and of host space
	regionPages = 32   // pages mapped by one tableRegion value: 128 KiB
	// blockPages is the largest AEAD block there may be, in pages.
	blockPages = 4
	// writePages is the largest that is written, in pages. 8 KiB: a random read
	// of 4 KiB costs 4 µs less than with 16 KiB, and no more than with 4 KiB,
	// which would double the index.
	writePages = 2
	tagSize    = 16
)

// pointer maps n pages of a file, from page (counted within the region) on, to
// pages skip… of the AEAD block of blk pages that begins at page phys of a
// segment.
type pointer struct {
	page uint8
	n    uint8
	blk  uint8
	skip uint8
	phys uint32
	seg  uint64
	tag  [tagSize]byte
}

const pointerSize = 4 + 4 + 8 + tagSize

// block identifies an AEAD block, and the host space it takes.
type block struct {
	seg  uint64
	phys uint32
	blk  uint32 // pages
}

func (p *pointer) block() block { return block{p.seg, p.phys, uint32(p.blk)} }
func (p *pointer) end() int     { return int(p.page) + int(p.n) }

func marshalRegion(ptrs []pointer) []byte {
	if len(ptrs) == 0 {
		return nil
	}
	b := make([]byte, 1, 1+len(ptrs)*pointerSize)
	b[0] = regionVersion
	for i := range ptrs {
		p := &ptrs[i]
		b = append(b, p.page, p.n, p.blk, p.skip)
		b = binary.LittleEndian.AppendUint32(b, p.phys)
		b = binary.LittleEndian.AppendUint64(b, p.seg)
		b = append(b, p.tag[:]...)
	}
	return b
}

const regionVersion = 1

var errRegion = errors.New("block pointers overlap or leave their region or block")

func unmarshalRegion(b []byte) ([]pointer, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != regionVersion {
		return nil, errVersion
	}
	b = b[1:]
	if len(b)%pointerSize != 0 || len(b) > regionPages*pointerSize {
		return nil, errShort
	}
	ptrs := make([]pointer, 0, len(b)/pointerSize)
	last := 0
	for ; len(b) > 0; b = b[pointerSize:] {
		page, end, blk, phys := int(b[0]), int(b[0])+int(b[1]), b[2], binary.LittleEndian.Uint32(b[4:])
		if page < last || end == page || end > regionPages || blk == 0 || blk > blockPages || b[3]+b[1] > blk || phys == 0 {
			return nil, errRegion
		}
		last = end
		p := pointer{page: b[0], n: b[1], blk: blk, skip: b[3], phys: phys, seg: binary.LittleEndian.Uint64(b[8:])}
		copy(p.tag[:], b[16:])
		ptrs = append(ptrs, p)
	}
	return ptrs, nil
}

// splice replaces the mapping of pages [from, to) of a region by add (which
// lies inside that range, may be empty, and is in order). It reports what
// happened to each old pointer it touched: dropped blocks lost a reference,
// split ones gained one. mapped is how many pages of the range had a mapping.
func splice(old []pointer, from, to int, add []pointer) (out []pointer, dropped, split []block, mapped int) {
	out = make([]pointer, 0, len(old)+len(add)+1)
	added := false
	for i := range old {
		p := old[i]
		if p.end() <= from {
			out = append(out, p)
			continue
		}
		if !added {
			added = true
			if int(p.page) < from && p.end() > from {
				left := p
				left.n = uint8(from) - p.page
				out = append(out, left)
			}
			out = append(out, add...)
		}
		if int(p.page) >= to {
			out = append(out, p)
			continue
		}
		mapped += min(p.end(), to) - max(int(p.page), from)
		pieces := 0
		if int(p.page) < from {
			pieces++
		}
		if p.end() > to {
			right := p
			right.skip += uint8(to) - p.page
			right.n = uint8(p.end() - to)
			right.page = uint8(to)
			out = append(out, right)
			pieces++
		}
		switch pieces {
		case 0:
			dropped = append(dropped, p.block())
		case 2:
			split = append(split, p.block())
		}
	}
	if !added {
		out = append(out, add...)
	}
	return out, dropped, split, mapped
}
