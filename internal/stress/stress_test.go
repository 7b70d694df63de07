package stress_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmkfs/internal/stress"
)

// broken is a file system with a bug that shows at every third call. A write that is
// lost is noticed only if it was the last one to its block.
type broken struct {
	*stress.Host
	calls  atomic.Int64
	write  bool // says that it has written, and has not
	unlink bool // takes away no name
}

func (b *broken) due() bool { return b.calls.Add(1)%3 == 0 }

func (b *broken) Unlink(dir stress.Dir, name string) error {
	if b.unlink && b.due() {
		return nil
	}
	return b.Host.Unlink(dir, name)
}

type brokenFile struct {
	stress.File
	b *broken
}

func (b *broken) OpenFile(dir stress.Dir, name string) (stress.File, error) {
	f, err := b.Host.OpenFile(dir, name)
	return brokenFile{f, b}, err
}

func (f brokenFile) WriteAt(p []byte, off int64) (int, error) {
	if f.b.write && f.b.due() {
		return len(p), nil
	}
	return f.File.WriteAt(p, off)
}

// TestRun_Notices: the stress finds nothing on the host's own file system, and
// finds bugs put under it.
func TestRun_Notices(t *testing.T) {
	for _, c := range []struct {
		b    *broken
		want string
	}{
		{&broken{}, ""},
		{&broken{unlink: true}, "names of files"},
		{&broken{write: true}, "overwritten since"},
	} {
		h, err := stress.NewHost(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		c.b.Host = h
		until := make(chan struct{})
		time.AfterFunc(500*time.Millisecond, func() { close(until) })
		n, err := stress.Run(stress.Config{FileSystem: c.b, Workers: 4, Seed: 1, Until: until})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("after %d operations: %v, want %q", n, err, c.want)
		}
		h.Close()
	}
}
