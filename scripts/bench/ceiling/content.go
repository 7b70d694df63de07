package main

import (
	"cmkfs/meta"

	"golang.org/x/sys/unix"
)

// resize sets a file's size.
func (n *node) resize(size uint64) {
	for at := range n.pages {
		switch keep := int64(size) - at*pageSize; {
		case keep <= 0:
			delete(n.pages, at)
		case keep < pageSize:
			clear(n.pages[at][keep:])
		}
	}
	n.at.Size, n.at.Blocks = size, (size+511)/512
	n.touch()
}

func (e *engine) Write(_ meta.Caller, ino uint64, data []byte, off int64) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	if err != nil {
		return 0, err
	}
	if end := uint64(off) + uint64(len(data)); end > n.at.Size {
		n.at.Size, n.at.Blocks = end, (end+511)/512
	}
	n.touch()
	if e.keep {
		n.store(data, off)
	}
	return len(data), nil
}

// store keeps data.
func (n *node) store(data []byte, off int64) {
	if n.pages == nil {
		n.pages = map[int64]*[pageSize]byte{}
	}
	for done := 0; done < len(data); {
		at, within := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		page := n.pages[at]
		if page == nil {
			page = new([pageSize]byte)
			n.pages[at] = page
		}
		done += copy(page[within:], data[done:])
	}
}

func (e *engine) Read(ino uint64, dst []byte, off int64) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	if err != nil || off >= int64(n.at.Size) {
		return 0, err
	}
	dst = dst[:min(len(dst), int(int64(n.at.Size)-off))]
	if n.pages == nil {
		clear(dst)
		return len(dst), nil
	}
	for done := 0; done < len(dst); {
		at, within := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		part := dst[done:min(len(dst), done+int(pageSize-within))]
		if page := n.pages[at]; page != nil {
			copy(part, page[within:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(dst), nil
}

// Peek is Read: no access time is kept.
func (e *engine) Peek(ino uint64, dst []byte, off int64) (int, error) { return e.Read(ino, dst, off) }

func (e *engine) Fallocate(_ meta.Caller, ino uint64, mode uint32, off, length int64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	if err != nil {
		return err
	}
	if mode != 0 {
		return meta.ErrUnsupported
	}
	if end := uint64(off + length); end > n.at.Size {
		n.resize(end)
	}
	return nil
}

func (e *engine) CopyRange(meta.Caller, uint64, int64, uint64, int64, int64) (int64, error) {
	return 0, meta.ErrUnsupported
}

func (e *engine) Seek(ino uint64, off int64, whence int) (int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.node(ino)
	switch {
	case err != nil:
		return 0, err
	case off >= int64(n.at.Size):
		return 0, meta.ErrRange
	case whence == unix.SEEK_HOLE:
		return int64(n.at.Size), nil
	}
	return off, nil
}
