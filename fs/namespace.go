package fs

import (
	"errors"

	"cmkfs/meta"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Lookup finds a name, "." and ".." included (for file handles of exports). A
// missing name is a reply too, which the kernel remembers.
func (a *adapter) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	at, err := a.vol.Lookup(h.NodeId, name)
	if errors.Is(err, meta.ErrNotFound) && a.caching() {
		out.SetEntryTimeout(cacheFor)
		return fuse.OK
	}
	if err != nil {
		return a.errs.status("lookup", h.NodeId, err)
	}
	if name == "." && at.Nlink == 0 {
		// A handle of a file that was removed and that nobody has open any
		// more, or the kernel would not ask: FORGET is on its way.
		return fuse.Status(unix.ESTALE)
	}
	return a.entry("lookup", at, out)
}

// Mknod makes any inode that is neither directory nor symbolic link. Regular
// files come this way too, as CREATE is not offered.
func (a *adapter) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	c := a.caller(&in.InHeader)
	c.Umask = in.Umask
	at, err := a.vol.Mknod(c, in.NodeId, name, in.Mode, in.Rdev)
	if err != nil {
		return a.errs.status("mknod", in.NodeId, err)
	}
	return a.entry("mknod", at, out)
}

// Mkdir makes a directory.
func (a *adapter) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	c := a.caller(&in.InHeader)
	c.Umask = in.Umask
	at, err := a.vol.Mkdir(c, in.NodeId, name, in.Mode)
	if err != nil {
		return a.errs.status("mkdir", in.NodeId, err)
	}
	return a.entry("mkdir", at, out)
}

// Tmpfile makes a file without a name (O_TMPFILE), which linkat may give one.
// Unlike other opens this one is a message, and its reply has a handle.
func (a *adapter) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	c := a.caller(&in.InHeader)
	c.Umask = in.Umask
	at, err := a.vol.Tmpfile(c, in.NodeId, in.Mode)
	if err != nil {
		return a.errs.status("tmpfile", in.NodeId, err)
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return a.entry("tmpfile", at, &out.EntryOut)
}

// Symlink makes a symbolic link.
func (a *adapter) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	at, err := a.vol.Symlink(a.caller(h), h.NodeId, name, target)
	if err != nil {
		return a.errs.status("symlink", h.NodeId, err)
	}
	return a.entry("symlink", at, out)
}

// Readlink returns the target of a symbolic link.
func (a *adapter) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := a.vol.Readlink(h.NodeId)
	if err == nil {
		err = a.vol.Accessed(h.NodeId)
	}
	if err != nil {
		return nil, a.errs.status("readlink", h.NodeId, err)
	}
	return []byte(target), fuse.OK
}

// Link gives a file one more name.
func (a *adapter) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	at, err := a.vol.Link(a.caller(&in.InHeader), in.Oldnodeid, in.NodeId, name)
	if err != nil {
		return a.errs.status("link", in.Oldnodeid, err)
	}
	return a.entry("link", at, out)
}

// Unlink removes a name. A file that is still open lives on until FORGET.
func (a *adapter) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return a.errs.status("unlink", h.NodeId, a.vol.Unlink(a.caller(h), h.NodeId, name))
}

// Rmdir removes an empty directory.
func (a *adapter) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return a.errs.status("rmdir", h.NodeId, a.vol.Rmdir(a.caller(h), h.NodeId, name))
}

// Rename moves or exchanges names.
func (a *adapter) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	err := a.vol.Rename(a.caller(&in.InHeader), in.NodeId, oldName, in.Newdir, newName, in.Flags)
	return a.errs.status("rename", in.NodeId, err)
}

// Forget is the kernel letting go of a node. The reading loop handles FORGET by
// itself; this is for completeness of the interface.
func (a *adapter) Forget(ino, n uint64) { a.forget(ino, n) }
