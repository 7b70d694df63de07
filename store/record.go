package store

import (
	"errors"
	"os"
	"slices"
	"sync"
)

// Recorder is a Store in memory that logs every change, and can build from the
// log what a crash at any point of it may leave. It is for tests.
//
// The file of the volume's index is real, too, since bbolt must map it: Path
// leads into a directory of the Recorder's own. What bbolt does to it is logged
// like everything else (see Watch).
type Recorder struct {
	parent string // where Recorders make their directories
	dir    string

	mu struct {
		sync.Mutex // no other lock is taken while it is held
		base       *disk
		log        []*change
		live       *disk
		nextFile   int
		replay     *replay // the furthest State asked for: they are mostly asked for in order
		locked     bool
		open       int
	}
}

// NewRecorder returns an empty store whose local files are in a new directory
// below parent, best on a tmpfs.
func NewRecorder(parent string) (*Recorder, error) { return newRecorder(parent, newDisk(), nil) }

// newRecorder starts from a state of the disk with changes that are visible
// and not yet durable. It takes base over.
func newRecorder(parent string, base *disk, pending []*change) (*Recorder, error) {
	dir, err := os.MkdirTemp(parent, "recorder-")
	if err != nil {
		return nil, err
	}
	r := &Recorder{parent: parent, dir: dir}
	r.mu.base, r.mu.live = base, base.clone()
	for _, c := range pending {
		c := *c
		c.Seq = len(r.mu.log)
		r.mu.log = append(r.mu.log, &c)
		r.mu.live.apply(&c, all)
		r.mu.nextFile = max(r.mu.nextFile, c.file+1)
	}
	for n := range r.mu.live.files {
		r.mu.nextFile = max(r.mu.nextFile, n+1)
	}
	for name, n := range r.mu.live.names {
		if m := r.mu.live.files[n]; m.external {
			if err := m.write(r.Path(name)); err != nil {
				return nil, errors.Join(err, r.Close())
			}
		}
	}
	return r, nil
}

// Close removes the Recorder's directory. The log stays usable.
func (r *Recorder) Close() error { return os.RemoveAll(r.dir) }

// Len returns the number of events so far.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.log)
}

// Events returns the log.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Event, len(r.mu.log))
	for i, c := range r.mu.log {
		out[i] = c.Event
	}
	return out
}

// OpenFiles returns the number of files not closed.
func (r *Recorder) OpenFiles() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.open
}

// State returns what a crash of the host after the first upto events leaves:
// everything synced, and of the rest what keep accepts. It is asked about each
// unsynced sector of a write and each other unsynced change, in order.
func (r *Recorder) State(upto int, keep func(Event) bool) (*Recorder, error) {
	return r.Crash(upto, keep).Recorder()
}

// Crash is a state of the disk that a crash of the host leaves.
type Crash struct {
	parent string
	d      *disk
}

// Crash is State without the files on the host, to look whether it is a new one.
func (r *Recorder) Crash(upto int, keep func(Event) bool) *Crash {
	d, pending := r.at(upto)
	for _, c := range pending {
		d.apply(c, keep)
	}
	d.prune()
	return &Crash{r.parent, d}
}

// Recorder makes the state a store. It can do so once.
func (c *Crash) Recorder() (*Recorder, error) { return newRecorder(c.parent, c.d, nil) }

// Unsynced returns those changes of which State would ask at a position that
// make a difference: not the sectors that were written as they were.
func (r *Recorder) Unsynced(upto int) []Event {
	d, pending := r.at(upto)
	var out []Event
	for _, c := range pending {
		d.apply(c, func(e Event) bool {
			if c.Kind != EventWrite || !d.file(c.file).has(e.Off/SectorSize, c) {
				out = append(out, e)
			}
			return true
		})
	}
	return out
}

// Killed returns what the death of the process after the first upto events
// leaves: everything, but what was not synced still is not, and a crash of the
// host that follows may lose it.
func (r *Recorder) Killed(upto int) (*Recorder, error) {
	d, pending := r.at(upto)
	return newRecorder(r.parent, d, pending)
}

// Evicted is Killed when the host has dropped from its memory what failed syncs did
// not write (EventLost), as it may: nobody sees that any more.
func (r *Recorder) Evicted(upto int) (*Recorder, error) {
	d, pending := r.at(upto)
	return newRecorder(r.parent, d, slices.DeleteFunc(pending, func(c *change) bool { return c.lost }))
}

// at returns a copy of the durable state and the pending changes at a position.
func (r *Recorder) at(upto int) (*disk, []*change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.replay == nil || r.mu.replay.at > upto {
		r.mu.replay = &replay{durable: r.mu.base.clone()}
	}
	for p := r.mu.replay; p.at < upto; {
		p.step(r.mu.log[p.at])
	}
	return r.mu.replay.durable.clone(), slices.Clone(r.mu.replay.pending)
}

// recordLocked logs a change and applies it.
func (r *Recorder) recordLocked(c *change) {
	c.Seq = len(r.mu.log)
	r.mu.log = append(r.mu.log, c)
	r.mu.live.apply(c, all)
}
