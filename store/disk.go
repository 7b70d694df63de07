package store

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
)

// Kind is what an Event did.
type Kind string

// The kinds of events.
const (
	EventWrite    Kind = "write"
	EventTruncate Kind = "truncate" // also the size a file was created with
	EventPunch    Kind = "punch"
	EventSync     Kind = "sync"
	// EventLost is a sync that failed: the host's kernel gives up what it could
	// not write, and takes it for written from then on.
	EventLost    Kind = "lost"
	EventCreate  Kind = "create"
	EventRemove  Kind = "remove"
	EventRename  Kind = "rename"
	EventMkdir   Kind = "mkdir"
	EventSyncDir Kind = "syncdir"
)

// Event is one change of a Recorder's files, or, in the question whether it
// survives a crash, one sector of a write.
type Event struct {
	Seq  int // position in the log
	Kind Kind
	Name string // the file's name at the time, the new one for a rename
	Off  int64  // bytes, of a write or punch; the new size for a truncation
	Len  int64  // bytes
}

// change is an Event with what is needed to apply it.
type change struct {
	Event
	file     int       // number of the file
	oldName  string    // of a rename
	first    int64     // number of the first of sectors
	sectors  []*sector // of a write or punch, complete
	liveSize int64     // of the file after it
	external bool      // the file lives on the host
	lost     bool      // no sync makes it durable any more
}

// isData reports that syncing the file makes the change durable.
func (c *change) isData() bool {
	return c.Kind == EventWrite || c.Kind == EventTruncate || c.Kind == EventPunch
}

// disk is a state of files and names. Files are numbered like inodes, because
// a handle outlives its name.
type disk struct {
	dirs  map[string]bool
	names map[string]int
	files map[int]*image
}

func newDisk() *disk {
	return &disk{dirs: map[string]bool{"": true}, names: map[string]int{}, files: map[int]*image{}}
}

func (d *disk) clone() *disk {
	c := &disk{dirs: maps.Clone(d.dirs), names: maps.Clone(d.names), files: make(map[int]*image, len(d.files))}
	for n, m := range d.files {
		c.files[n] = m.clone()
	}
	return c
}

// file returns the image with a number, which exists from its first change
// on, whether or not its name does.
func (d *disk) file(n int) *image {
	m := d.files[n]
	if m == nil {
		m = &image{}
		d.files[n] = m
	}
	return m
}

// apply makes a change, of a write the sectors that keep accepts.
func (d *disk) apply(c *change, keep func(Event) bool) {
	if c.external {
		d.file(c.file).external = true
	}
	if c.Kind == EventWrite {
		for i, s := range c.sectors {
			e := c.Event
			e.Off, e.Len = (c.first+int64(i))*SectorSize, SectorSize
			if keep(e) {
				d.file(c.file).put(c.first+int64(i), s, c.liveSize)
			}
		}
		return
	}
	if !keep(c.Event) {
		return
	}
	switch c.Kind {
	case EventTruncate:
		d.file(c.file).resize(c.Off)
	case EventPunch:
		m := d.file(c.file)
		for i, s := range c.sectors {
			if n := c.first + int64(i); n < int64(len(m.sectors)) {
				m.own(0)
				m.sectors[n] = s
			}
		}
	case EventCreate:
		d.file(c.file)
		d.names[c.Name] = c.file
	case EventRemove:
		if d.names[c.Name] == c.file {
			delete(d.names, c.Name)
		}
	case EventRename:
		if d.names[c.oldName] == c.file {
			delete(d.names, c.oldName)
		}
		d.file(c.file)
		d.names[c.Name] = c.file
	case EventMkdir:
		d.dirs[c.Name] = true
	}
}

// prune forgets names whose folder was never made and files without a name.
func (d *disk) prune() {
	linked := map[int]bool{}
	for name, n := range d.names {
		if dir, _ := splitName(name); !d.dirs[dir] {
			delete(d.names, name)
		} else {
			linked[n] = true
		}
	}
	maps.DeleteFunc(d.files, func(n int, _ *image) bool { return !linked[n] })
}

// Hash tells states apart: equal files under equal names have equal hashes
// within one run of the program.
func (c *Crash) Hash() uint64 {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	for _, dir := range slices.Sorted(maps.Keys(c.d.dirs)) {
		h.WriteString(dir + "/")
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.names)) {
		m := c.d.files[c.d.names[name]]
		fmt.Fprintf(&h, "%s %d", name, m.size)
		for i, s := range m.sectors {
			if s != nil && *s != zeroSector {
				fmt.Fprintf(&h, " %d", i)
				h.Write(s[:])
			}
		}
	}
	return h.Sum64()
}

var hashSeed = maphash.MakeSeed()

// replay follows a log: what is durable at one position of it, and the
// changes before it that are not.
type replay struct {
	at      int // number of changes seen
	durable *disk
	pending []*change
}

func all(Event) bool { return true }

func (r *replay) step(c *change) {
	r.at++
	var flush func(p *change) bool
	switch c.Kind {
	case EventSync:
		flush = func(p *change) bool { return p.isData() && p.file == c.file && !p.lost }
	case EventLost:
		for i, p := range r.pending {
			if p.isData() && p.file == c.file {
				lost := *p
				lost.lost = true
				r.pending[i] = &lost
			}
		}
		return
	case EventSyncDir:
		flush = func(p *change) bool {
			if p.isData() {
				return false
			}
			// A rename between folders counts as made by the second of them.
			// Nothing here renames between folders and relies on less.
			dir, _ := splitName(p.Name)
			return dir == c.Name
		}
	default:
		r.pending = append(r.pending, c)
		return
	}
	r.pending = slices.DeleteFunc(r.pending, func(p *change) bool {
		if !flush(p) {
			return false
		}
		r.durable.apply(p, all)
		return true
	})
}
