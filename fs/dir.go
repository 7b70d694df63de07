package fs

import (
	"errors"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	direntSize    = 24  // struct fuse_dirent without the name
	entryOutSize  = 128 // struct fuse_entry_out
	direntAlign   = 8
	maxDirEntries = maxData / (direntSize + direntAlign)
)

// entries reads the entries that a request asks for and that fit, each with
// prefix bytes of its own before it. They are collected first, so that nothing
// is asked of the volume while it iterates.
func (a *adapter) entries(in *fuse.ReadIn, prefix int) ([]meta.DirEntry, error) {
	var es []meta.DirEntry
	size := listSize(in)
	err := a.vol.ReadDir(in.NodeId, in.Offset, func(e meta.DirEntry) bool {
		size -= prefix + (direntSize+len(e.Name)+direntAlign-1)&^(direntAlign-1)
		if size < 0 || len(es) == maxDirEntries {
			return false
		}
		es = append(es, e)
		return true
	})
	if err == nil && in.Flags&unix.O_NOATIME == 0 {
		err = a.vol.Accessed(in.NodeId)
	}
	return es, err
}

func dirEntry(e meta.DirEntry) fuse.DirEntry {
	return fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Mode, Off: e.Cookie}
}

// listSize is the room in a reply to READDIR or READDIRPLUS.
func listSize(in *fuse.ReadIn) int { return min(int(in.Size), maxData) }

// ReadDir fills the reply with names.
func (a *adapter) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	es, err := a.entries(in, 0)
	if err != nil {
		return a.errs.status("readdir", in.NodeId, err)
	}
	for _, e := range es {
		if !out.AddDirEntry(dirEntry(e)) {
			break
		}
	}
	return fuse.OK
}

// ReadDirPlus fills the reply with names and attributes. Each entry but "." and
// ".." gives the kernel a reference, whether or not it asked for that name.
func (a *adapter) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	es, err := a.entries(in, entryOutSize)
	if err != nil {
		return a.errs.status("readdirplus", in.NodeId, err)
	}
	for _, e := range es {
		eo := out.AddDirLookupEntry(dirEntry(e))
		if eo == nil {
			break
		}
		if e.Name == "." || e.Name == ".." {
			continue
		}
		at, err := a.vol.GetAttr(e.Ino)
		if err != nil {
			// Gone since, or damaged: the name is listed, and whoever
			// looks it up gets the error.
			if !errors.Is(err, meta.ErrStale) && !errors.Is(err, meta.ErrNotFound) {
				a.errs.status("readdirplus", e.Ino, err)
			}
			continue
		}
		if st := a.entry("readdirplus", at, eo); !st.Ok() {
			return st
		}
	}
	return fuse.OK
}
