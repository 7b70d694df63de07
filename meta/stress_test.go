package meta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/internal/stress"
	"cmkfs/meta"
)

// direct is a volume as the stress uses it, without a kernel: the volume itself
// must keep directories from forming rings.
type direct struct{ *meta.Volume }

func (d direct) Root() stress.Dir { return meta.RootIno }

// errno translates what a worker may be answered.
func errno(err error) error {
	for ours, number := range map[error]unix.Errno{
		meta.ErrNotFound: unix.ENOENT, meta.ErrExist: unix.EEXIST, meta.ErrInvalid: unix.EINVAL, meta.ErrStale: unix.ESTALE, meta.ErrRange: unix.ENXIO,
	} {
		if errors.Is(err, ours) {
			return number
		}
	}
	return err
}

func (d direct) Mkdir(dir stress.Dir, name string) error {
	_, err := d.Volume.Mkdir(meta.Caller{}, uint64(dir), name, 0o755)
	return errno(err)
}

func (d direct) Open(dir stress.Dir, name string) (stress.Dir, error) {
	a, err := d.Lookup(uint64(dir), name)
	return stress.Dir(a.Ino), errno(err)
}

func (d direct) Entries(dir stress.Dir) (out []stress.Entry, err error) {
	var cookie uint64
	for more := true; more && err == nil; { // in parts, as the kernel reads it
		more = false
		n := 0
		err = d.ReadDir(uint64(dir), cookie, func(e meta.DirEntry) bool {
			if n++; n > 5 {
				more = true
				return false
			}
			cookie = e.Cookie
			if e.Name != "." && e.Name != ".." {
				out = append(out, stress.Entry{Name: e.Name, Ino: e.Ino})
			}
			return true
		})
	}
	for i := range out {
		a, err := d.GetAttr(out[i].Ino)
		if err != nil {
			return nil, errno(err)
		}
		out[i].IsDir, out[i].Nlink = a.Mode&unix.S_IFMT == unix.S_IFDIR, a.Nlink
	}
	return out, errno(err)
}

func (d direct) Create(dir stress.Dir, name string) error {
	_, err := d.Mknod(meta.Caller{}, uint64(dir), name, unix.S_IFREG|0o644, 0)
	return errno(err)
}

func (d direct) Link(dir stress.Dir, name string, dir2 stress.Dir, name2 string) error {
	a, err := d.Lookup(uint64(dir), name)
	if err == nil {
		_, err = d.Volume.Link(meta.Caller{}, a.Ino, uint64(dir2), name2)
	}
	return errno(err)
}

func (d direct) Unlink(dir stress.Dir, name string) error {
	return errno(d.Volume.Unlink(meta.Caller{}, uint64(dir), name))
}

func (d direct) Rename(dir stress.Dir, name string, dir2 stress.Dir, name2 string, flags uint) error {
	return errno(d.Volume.Rename(meta.Caller{}, uint64(dir), name, uint64(dir2), name2, uint32(flags)))
}

func (d direct) OpenFile(dir stress.Dir, name string) (stress.File, error) {
	a, err := d.Lookup(uint64(dir), name)
	return directFile{d.Volume, a.Ino}, errno(err)
}

type directFile struct {
	v   *meta.Volume
	ino uint64
}

func (f directFile) Ino() uint64 { return f.ino }
func (f directFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.v.Write(meta.Caller{}, f.ino, p, off)
	return n, errno(err)
}
func (f directFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.v.Read(f.ino, p, off)
	return n, errno(err)
}
func (f directFile) Truncate(size int64) error {
	s := uint64(size)
	_, err := f.v.SetAttr(meta.Caller{}, f.ino, meta.SetAttr{Size: &s})
	return errno(err)
}
func (f directFile) Map(p []byte, off int64) error {
	_, err := f.WriteAt(p, off)
	return err
}
func (f directFile) Close() error { return nil }

// stressTime is how long a stress lasts: CMKFS_STRESS, or a second.
func stressTime(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("CMKFS_STRESS")
	if s == "" {
		return time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestVolume_Stress: many workers rename, link, unlink, list, write and
// truncate the same files and directories while the volume checkpoints and
// forgets, and the process dies in the end. CMKFS_STRESS says how long, as a
// duration.
func TestVolume_Stress(t *testing.T) {
	for _, replace := range []bool{false, true} {
		t.Run(fmt.Sprintf("replace %v", replace), func(t *testing.T) {
			cfg, open := testVolume(t, 0)
			v := open()
			until, seed := make(chan struct{}), rand.Uint64()
			var background sync.WaitGroup
			background.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-until:
						return
					case <-time.After(5 * time.Millisecond):
					}
					if err := errors.Join(v.Checkpoint(), v.Sync(context.Background())); err != nil {
						t.Error(err)
						return
					}
				}
			})
			time.AfterFunc(stressTime(t), func() { close(until) })
			n, err := stress.Run(stress.Config{FileSystem: direct{v}, Workers: 8, Seed: seed, Replace: replace, Until: until})
			if err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
			<-until
			background.Wait()
			t.Logf("%d operations", n)
			want := must[string](t)(dumpVolume(v))
			if err := v.Abandon(); err != nil {
				t.Fatal(err)
			}
			v = open()
			if err := errors.Join(compare(v, want), reclaim(v), v.Close(context.Background())); err != nil {
				t.Fatal(err)
			}
			if found, err := meta.Check(context.Background(), cfg, meta.CheckOptions{Scrub: true}); err != nil || len(found) > 0 {
				t.Errorf("check: %v, %v", found, err)
			}
		})
	}
}

// TestVolume_Forget_Many: nobody waits for a forget, and however many are queued,
// they fit in the journal.
func TestVolume_Forget_Many(t *testing.T) {
	_, open := testVolume(t, 0)
	v := open()
	for range 12_000 { // more than a journal file takes
		must[meta.Attr](t)(v.Tmpfile(meta.Caller{}, meta.RootIno, 0o600))
	}
	if err := v.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(reclaim(v), v.Sync(context.Background()), v.Close(context.Background())); err != nil {
		t.Error(err)
	}
}
