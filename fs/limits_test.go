package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLimits tries how large things may be.
func TestLimits(t *testing.T) {
	suite{
		"names":      testNamesOfAnything,
		"xattrs":     testLargeXattrs,
		"openfiles":  testOpenFiles,
		"sparse10TB": testSparse10TiB,
	}.run(t, "xattrs") // ext4 has room for less than one
}

// testNamesOfAnything makes names of 255 bytes that have every byte but "/" and
// zero, each at every place.
func testNamesOfAnything(t *testing.T, dir string) {
	var bytesAllowed []byte
	for b := 1; b < 256; b++ {
		if b != '/' {
			bytesAllowed = append(bytesAllowed, byte(b))
		}
	}
	made := map[string]bool{}
	for shift := range bytesAllowed {
		name := append(bytes.Clone(bytesAllowed[shift:]), bytesAllowed[:shift]...)
		name = append(name, 'x') // 255
		made[string(name)] = true
		must(t, os.WriteFile(dir+"/"+string(name), []byte{byte(shift)}, 0o600))
	}
	es, err := os.ReadDir(dir)
	must(t, err)
	if len(es) != len(made) {
		t.Errorf("%d entries, want %d", len(es), len(made))
	}
	for _, e := range es {
		if !made[e.Name()] || len(e.Name()) != 255 {
			t.Errorf("%q was never made", e.Name())
		}
		must(t, os.Rename(dir+"/"+e.Name(), dir+"/"+e.Name()[:254]+"y"))
		must(t, os.Remove(dir+"/"+e.Name()[:254]+"y"))
	}
}

// testLargeXattrs sets several values of 64 KiB, the most Linux allows, with a
// name of 255 bytes, the longest it allows.
func testLargeXattrs(t *testing.T, dir string) {
	p := dir + "/f"
	must(t, os.WriteFile(p, nil, 0o600))
	name := func(i int) string { return fmt.Sprintf("user.%s%03d", strings.Repeat("n", 247), i) }
	value := func(i int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("%04d", i)), 16<<10) }
	for i := range 20 {
		must(t, unix.Setxattr(p, name(i), value(i), unix.XATTR_CREATE))
	}
	wantErrno(t, "65537 bytes", unix.Setxattr(p, "user.more", make([]byte, 64<<10+1), 0), syscall.E2BIG)
	wantErrno(t, "256 bytes of name", unix.Setxattr(p, name(0)+"n", nil, 0), syscall.ERANGE)
	for i := range 20 {
		b := make([]byte, 64<<10)
		if n, err := unix.Getxattr(p, name(i), b); err != nil || !bytes.Equal(b[:n], value(i)) {
			t.Errorf("value %d: %d bytes, %v", i, n, err)
		}
		must(t, unix.Removexattr(p, name(i)))
	}
}

// testOpenFiles holds 10,000 files open at a time.
func testOpenFiles(t *testing.T, dir string) {
	const n = 10_000
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Max < n+1000 {
		limit.Max = n + 1000
	}
	limit.Cur = limit.Max
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	files := make([]*os.File, n)
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	for i := range files {
		f, err := os.Create(fmt.Sprintf("%s/%d", dir, i))
		must(t, err)
		files[i] = f
		_, err = fmt.Fprintf(f, "this is file %d", i)
		must(t, err)
	}
	for i := range files {
		must(t, os.Remove(files[i].Name()))
	}
	for i, f := range files {
		want := fmt.Sprintf("this is file %d", i)
		b := make([]byte, 100)
		if n, _ := f.ReadAt(b, 0); string(b[:n]) != want {
			t.Fatalf("file %d: %q", i, b[:n])
		}
	}
}

// testSparse10TiB writes at places of a file of 10 TiB, finds data and holes,
// and removes it. None of it may take a time that grows with the size.
func testSparse10TiB(t *testing.T, dir string) {
	const size = int64(10) << 40
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	begin := time.Now()
	must(t, f.Truncate(size))
	data := bytes.Repeat([]byte("data"), 1024)
	places := []int64{0, 1 << 30, 3 << 40, size/2 + 4096, size - 4096}
	for _, at := range places {
		_, err := f.WriteAt(data, at)
		must(t, err)
	}
	must(t, f.Sync())
	at := int64(0)
	for i, want := range places {
		found, err := f.Seek(at, unix.SEEK_DATA)
		must(t, err)
		hole, err := f.Seek(found, unix.SEEK_HOLE)
		must(t, err)
		if found != want || hole != want+4096 {
			t.Errorf("data %d: from %d to %d, want from %d", i, found, hole, want)
		}
		b := make([]byte, 8192)
		n, err := f.ReadAt(b, want-min(want, 2048))
		if n < 4096 || err != nil && n == 0 || !bytes.Contains(b[:n], data[:2048]) || want > 0 && !bytes.Equal(b[:2048], make([]byte, 2048)) {
			t.Errorf("around %d: %d bytes, %v", want, n, err)
		}
		at = hole
	}
	if _, err := f.Seek(at, unix.SEEK_DATA); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("data behind the last: %v", err)
	}
	if st := stat(t, f.Name()); st.Size != size || st.Blocks > 1000 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, size-8192))
	if next, err := f.Seek(4096, unix.SEEK_DATA); err != nil || next != size-4096 {
		t.Errorf("after the punch: data at %d, %v", next, err)
	}
	must(t, f.Truncate(size-1))
	must(t, f.Truncate(1))
	must(t, os.Remove(f.Name()))
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %s", took)
	}
}
