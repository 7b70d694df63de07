package store

import (
	"os"
	"reflect"
)

// indexHead is the length in bytes of bbolt's two meta pages. A commit writes
// its other pages, flushes, writes one of these, and flushes again.
const indexHead = 2 * 4096

// Watch implements Watcher: what bbolt writes to the file from now on is in the
// log, and so are its flushes, with everything in between at risk as in any
// other file.
func (r *Recorder) Watch(name string, db any) {
	f := r.watched(name, db)
	f.route(db, f)
}

// watched is the file as bbolt has it open. It ends with bbolt's.
func (r *Recorder) watched(name string, db any) *recordFile {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.lookupLocked(name)
	if err != nil {
		panic(wrap("watch", name, err))
	}
	return &recordFile{r: r, name: name, file: n, host: *field[*os.File](db, "file")}
}

// field leads into a struct that has not exported what is wanted. The packages
// that tests cannot see into have no other place to look on.
func field[T any](db any, path ...string) *T {
	v := reflect.ValueOf(db).Elem()
	for _, name := range path {
		v = v.FieldByName(name)
	}
	if v.Type() != reflect.TypeFor[T]() {
		panic("store: bbolt has changed: " + v.Type().String())
	}
	return (*T)(v.Addr().UnsafePointer())
}

// route makes bbolt write through via, and flush there. It looks at NoSync before
// each flush, and the flushes are where its commit has them: before and after a
// meta page, and when it has made its file larger. A flush that fails fails the
// write of the meta page, which bbolt treats alike.
func (f *recordFile) route(db any, via File) {
	*field[bool](db, "NoSync") = true
	*field[func([]byte, int64) (int, error)](db, "ops", "writeAt") = func(p []byte, off int64) (int, error) {
		if err := f.follow(via); err != nil {
			return 0, err
		}
		if off >= indexHead {
			return via.WriteAt(p, off)
		}
		if err := via.Sync(); err != nil {
			return 0, err
		}
		n, err := via.WriteAt(p, off)
		if err == nil {
			err = via.Sync()
		}
		return n, err
	}
}

// follow logs the size that the file on the host has got.
func (f *recordFile) follow(via File) error {
	st, err := f.host.Stat()
	if err != nil {
		return err
	}
	if size, err := f.Size(); err != nil || size == st.Size() {
		return err
	}
	if err := via.Truncate(st.Size()); err != nil {
		return err
	}
	return via.Sync()
}

// adoptLocked logs files that were made in the directory on the host, complete
// and durable: bbolt flushes what it makes before it is watched. An error there
// is the test's environment breaking down, so it panics.
func (r *Recorder) adoptLocked() {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		if os.IsNotExist(err) {
			return // closed
		}
		panic(err)
	}
	for _, e := range entries {
		if _, known := r.mu.live.names[e.Name()]; known {
			continue
		}
		p, err := os.ReadFile(r.Path(e.Name()))
		if err != nil {
			panic(err)
		}
		n := r.mu.nextFile
		r.mu.nextFile++
		r.recordLocked(&change{Event: Event{Kind: EventCreate, Name: e.Name()}, file: n, external: true})
		r.recordLocked(&change{
			Event: Event{Kind: EventWrite, Name: e.Name(), Len: int64(len(p))}, file: n, external: true,
			sectors: r.mu.live.files[n].overlay(p, 0), liveSize: int64(len(p)),
		})
		r.recordLocked(&change{Event: Event{Kind: EventSync, Name: e.Name()}, file: n})
	}
}
