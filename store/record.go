package store

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
)

// Recorder is a Store in memory that logs every change, and can build from the
// log what a crash at any point of it may leave. It is for tests.
//
// The file of the volume's index is real, since bbolt must map it: Path leads
// into a directory of the Recorder's own. At every event, and whenever the log
// is asked for, the Recorder looks there for files that were made, renamed,
// removed or committed to. How bbolt itself survives a crash is not simulated.
type Recorder struct {
	parent string // where Recorders make their directories
	dir    string

	mu struct {
		sync.Mutex // no other lock is taken while it is held
		base       *disk
		log        []*change
		live       *disk
		nextFile   int
		external   map[string]*externalFile
		replay     *replay // the furthest State asked for: they are mostly asked for in order
		locked     bool
		open       int
	}
}

// externalFile is what the Recorder last saw of a file on the host.
type externalFile struct {
	file int
	host uint64 // inode number
	size int64
	head [indexHead]byte
}

// indexHead is the length of bbolt's two meta pages in bytes: every commit
// changes one of them, and nothing else does.
const indexHead = 2 * 4096

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
	r.mu.external = map[string]*externalFile{}
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
			if m.raw == nil {
				m.raw = &sparse{}
			}
			err := m.raw.write(r.Path(name))
			if err == nil {
				r.mu.external[name], err = lookAt(r.Path(name))
			}
			if err != nil {
				return nil, errors.Join(err, r.Close())
			}
			r.mu.external[name].file = n
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
	r.scanLocked()
	return len(r.mu.log)
}

// Events returns the log.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scanLocked()
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
	d, pending := r.at(upto)
	for _, c := range pending {
		d.apply(c, keep)
	}
	d.prune()
	return newRecorder(r.parent, d, nil)
}

// Killed returns what the death of the process after the first upto events
// leaves: everything, but what was not synced still is not, and a crash of the
// host that follows may lose it.
func (r *Recorder) Killed(upto int) (*Recorder, error) {
	d, pending := r.at(upto)
	return newRecorder(r.parent, d, pending)
}

// at returns a copy of the durable state and the pending changes at a position.
func (r *Recorder) at(upto int) (*disk, []*change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scanLocked()
	if r.mu.replay == nil || r.mu.replay.at > upto {
		r.mu.replay = &replay{durable: r.mu.base.clone()}
	}
	for p := r.mu.replay; p.at < upto; {
		p.step(r.mu.log[p.at])
	}
	return r.mu.replay.durable.clone(), slices.Clone(r.mu.replay.pending)
}

// recordLocked logs a change after those found on the host, and applies it.
func (r *Recorder) recordLocked(c *change) {
	r.scanLocked()
	r.appendLocked(c)
}

func (r *Recorder) appendLocked(c *change) {
	c.Seq = len(r.mu.log)
	r.mu.log = append(r.mu.log, c)
	r.mu.live.apply(c, all)
}

// lookAt reads what identifies a file on the host and its last commit.
func lookAt(path string) (*externalFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	e := &externalFile{host: st.Sys().(*syscall.Stat_t).Ino, size: st.Size()}
	if _, err := f.ReadAt(e.head[:], 0); err != nil && err != io.EOF {
		return nil, err
	}
	return e, nil
}

// scanLocked logs what happened in the directory on the host. An error there
// is the test's environment breaking down, so it panics.
func (r *Recorder) scanLocked() {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return // closed
	}
	if err != nil {
		panic(err)
	}
	found := map[string]*externalFile{}
	for _, e := range entries {
		x, err := lookAt(r.Path(e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // renamed or removed just now: the next scan sees how
		}
		if err != nil {
			panic(err)
		}
		found[e.Name()] = x
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		now, before := found[name], r.mu.external[name]
		if before == nil || before.host != now.host {
			before = r.appearedLocked(name, now, found)
		}
		now.file = before.file
		if now.size != before.size || now.head != before.head {
			r.commitLocked(name, now)
		}
		r.mu.external[name] = now
	}
	for name, x := range r.mu.external {
		if found[name] == nil {
			r.appendLocked(&change{Event: Event{Kind: EventRemove, Name: name}, file: x.file})
			delete(r.mu.external, name)
		}
	}
}

// appearedLocked logs that a name leads to a file on the host that it did not
// lead to before, and returns what was known of that file.
func (r *Recorder) appearedLocked(name string, now *externalFile, found map[string]*externalFile) *externalFile {
	for oldName, old := range r.mu.external {
		if f := found[oldName]; old.host == now.host && (f == nil || f.host != now.host) {
			r.appendLocked(&change{Event: Event{Kind: EventRename, Name: name}, file: old.file, oldName: oldName})
			delete(r.mu.external, oldName)
			return old
		}
	}
	n := r.mu.nextFile
	r.mu.nextFile++
	r.appendLocked(&change{Event: Event{Kind: EventCreate, Name: name}, file: n})
	r.mu.live.files[n].external = true
	return &externalFile{file: n, size: -1}
}

// commitLocked logs the content of a file on the host. When its head changes
// while it is read, the copy may mix two commits, and is made again.
func (r *Recorder) commitLocked(name string, now *externalFile) {
	for {
		raw, err := readSparse(r.Path(name))
		if err != nil {
			panic(err)
		}
		after, err := lookAt(r.Path(name))
		if err != nil {
			panic(err)
		}
		same := after.head == now.head && after.size == now.size && raw.size == now.size
		now.head, now.size = after.head, after.size
		if same {
			r.appendLocked(&change{Event: Event{Kind: EventIndex, Name: name, Len: raw.size}, file: now.file, raw: raw})
			return
		}
	}
}
