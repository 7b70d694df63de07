package meta

import "sync/atomic"

const (
	// decodedInodes and decodedRegions are how many of each are kept decoded: of
	// the maps, which are a KiB at most, those of 1 GiB of a file.
	decodedInodes  = 4096
	decodedRegions = 8192
)

// decoded keeps inodes and maps of files as they were decoded when they were last
// read: finding a value in an overlay and decoding it costs as much as decrypting
// the page it leads to. The state lock guards it: readers, who share it, add what
// they have looked up, and whoever changes a value (Volume.put) drops it. Each has
// one place, and whoever comes later takes it.
type decoded struct {
	inodes  [decodedInodes]atomic.Pointer[inode]
	regions [decodedRegions]atomic.Pointer[region]
}

// region is where the pages of 128 KiB of a file are.
type region struct {
	ino, index uint64
	ptrs       []pointer // in the order of the file
}

func (d *decoded) inode(ino uint64) *atomic.Pointer[inode] { return &d.inodes[ino%decodedInodes] }

// region gives the regions of one file, which are often read one after the other,
// different places.
func (d *decoded) region(ino, index uint64) *atomic.Pointer[region] {
	const spread = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	return &d.regions[(ino*spread>>32+index)%decodedRegions]
}

// drop forgets what was decoded from the value of a key.
func (d *decoded) drop(k key) {
	switch k.t {
	case tableInode:
		if p := d.inode(k.a); p.Load() != nil && p.Load().ino == k.a {
			p.Store(nil)
		}
	case tableRegion:
		if p := d.region(k.a, k.b); p.Load() != nil && p.Load().ino == k.a && p.Load().index == k.b {
			p.Store(nil)
		}
	}
}

// inodeOf reads an inode. The caller holds v.mu.
func (v *Volume) inodeOf(ino uint64) (inode, error) {
	kept := v.decoded.inode(ino)
	n := kept.Load()
	if n == nil || n.ino != ino {
		val, err := v.get(key{tableInode, ino, 0})
		if err != nil {
			return inode{}, err
		}
		if n, err = decodeInode(ino, val); err != nil {
			return inode{}, err
		}
		kept.Store(n)
	}
	own := *n
	v.atimes.show(&own)
	return own, nil
}

// regionOf reads where the pages of a region of a file are. The caller holds v.mu
// and must not modify the result.
func (v *Volume) regionOf(ino, index uint64) (*region, error) {
	kept := v.decoded.region(ino, index)
	r := kept.Load()
	if r == nil || r.ino != ino || r.index != index {
		val, err := v.get(key{tableRegion, ino, index})
		if err != nil {
			return nil, err
		}
		ptrs, err := decodeRegion(ino, index, val)
		if err != nil {
			return nil, err
		}
		r = &region{ino, index, ptrs}
		kept.Store(r)
	}
	return r, nil
}

// from returns the pointers from the first on that maps a page behind page or page
// itself.
func (r *region) from(page int) []pointer {
	// Mostly all are of the same size, and there are no holes.
	i := page * len(r.ptrs) / regionPages
	for i < len(r.ptrs) && r.ptrs[i].end() <= page {
		i++
	}
	for i > 0 && r.ptrs[i-1].end() > page {
		i--
	}
	return r.ptrs[i:]
}
