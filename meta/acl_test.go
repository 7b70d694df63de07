package meta_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// randomACL returns entries in valid order, and sometimes breaks something.
func randomACL(rnd *rand.Rand, valid bool) []byte {
	perm := func() uint32 { return rnd.Uint32N(8) }
	var acl [][3]uint32
	acl = append(acl, [3]uint32{0x01, perm()})
	named := rnd.IntN(2) == 0
	if named {
		for i := range 1 + rnd.Uint32N(3) {
			acl = append(acl, [3]uint32{0x02, perm(), 1000 + i})
		}
	}
	acl = append(acl, [3]uint32{0x04, perm()})
	if named {
		for i := range rnd.Uint32N(3) {
			acl = append(acl, [3]uint32{0x08, perm(), 2000 + i})
		}
	}
	if named || rnd.IntN(3) == 0 {
		acl = append(acl, [3]uint32{0x10, perm()})
	}
	acl = append(acl, [3]uint32{0x20, perm()})
	if valid {
		return meta.MakeACL(acl...)
	}
	switch i := rnd.IntN(len(acl)); rnd.IntN(7) {
	case 0:
		acl = append(acl[:i], acl[i+1:]...)
	case 1:
		j := rnd.IntN(len(acl))
		acl[i], acl[j] = acl[j], acl[i]
	case 2:
		acl[i][1] = 8
	case 3:
		acl[i][0] = rnd.Uint32N(64)
	case 4:
		acl[i][2] = 0xffffffff
	case 5:
		acl = append(acl, acl[i])
	case 6:
		b := meta.MakeACL(acl...)
		return b[:rnd.IntN(len(b))]
	}
	return meta.MakeACL(acl...)
}

// aclDir returns a directory on a file system with ACLs, to compare with.
func aclDir(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{"", "/dev/shm"} {
		dir, err := os.MkdirTemp(parent, "acl-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if unix.Setxattr(dir, meta.XattrACLAccess, meta.MakeACL([3]uint32{1, 7}, [3]uint32{4, 0}, [3]uint32{0x20, 0}), 0) == nil {
			return dir
		}
	}
	t.Fatal("neither the temporary directory nor /dev/shm takes ACLs")
	return ""
}

func kernelACL(t *testing.T, path, name string) []byte {
	t.Helper()
	buf := make([]byte, 1024)
	n, err := unix.Getxattr(path, name, buf)
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func kernelMode(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode & 0o7777
}

// Everything is compared with what the kernel does on a file system of its own.

func TestACL_SetLikeKernel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 1))
	path := filepath.Join(aclDir(t), "f")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	accepted, refused := 0, 0
	for i := range 2000 {
		acl := randomACL(rnd, i%2 == 0)
		before := kernelMode(t, path)
		kernelErr := unix.Setxattr(path, meta.XattrACLAccess, acl, 0)
		canonical, err := meta.CanonicalACL(acl)
		if (err == nil) != (kernelErr == nil) {
			t.Fatalf("%x: kernel says %v, we say %v", acl, kernelErr, err)
		}
		if err != nil {
			if want := map[bool]error{true: meta.ErrUnsupported, false: meta.ErrInvalid}[errors.Is(kernelErr, unix.EOPNOTSUPP)]; !errors.Is(err, want) {
				t.Fatalf("%x: kernel says %v, we say %v", acl, kernelErr, err)
			}
			refused++
			continue
		}
		accepted++
		mode, minimal, err := meta.ACLToMode(acl, before)
		if err != nil || mode != kernelMode(t, path) {
			t.Fatalf("%x: mode %o, %v; the kernel has %o", acl, mode, err, kernelMode(t, path))
		}
		if minimal {
			canonical = nil
		}
		if got := kernelACL(t, path, meta.XattrACLAccess); !bytes.Equal(got, canonical) {
			t.Fatalf("%x: stored %x; the kernel has %x", acl, canonical, got)
		}
	}
	if accepted < 500 || refused < 500 {
		t.Errorf("%d accepted, %d refused: the test does not test", accepted, refused)
	}
}

func TestACL_ChmodLikeKernel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 2))
	path := filepath.Join(aclDir(t), "f")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if err := unix.Setxattr(path, meta.XattrACLAccess, randomACL(rnd, true), 0); err != nil {
			t.Fatal(err)
		}
		before := kernelACL(t, path, meta.XattrACLAccess)
		if before == nil {
			continue
		}
		mode := rnd.Uint32N(0o1000)
		if err := unix.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		got, err := meta.ChmodACL(before, mode)
		if want := kernelACL(t, path, meta.XattrACLAccess); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("chmod %o of %x: %x, %v; the kernel has %x", mode, before, got, err, want)
		}
	}
}

func TestACL_InheritLikeKernel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	dir := aclDir(t)
	for i := range 500 {
		dflt := randomACL(rnd, true)
		if err := unix.Setxattr(dir, meta.XattrACLDefault, dflt, 0); err != nil {
			t.Fatal(err)
		}
		mode := rnd.Uint32N(0o1000)
		path := filepath.Join(dir, fmt.Sprint(i))
		isDir := i%2 == 0
		var err error
		if isDir {
			err = unix.Mkdir(path, mode)
		} else {
			err = unix.Mknod(path, unix.S_IFREG|mode, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		access, newDefault, newMode, err := meta.InheritACL(dflt, mode, isDir)
		if err != nil {
			t.Fatal(err)
		}
		if want := kernelMode(t, path); newMode != want {
			t.Fatalf("%x with mode %o: mode %o, the kernel has %o", dflt, mode, newMode, want)
		}
		if want := kernelACL(t, path, meta.XattrACLAccess); !bytes.Equal(access, want) {
			t.Fatalf("%x with mode %o: access %x, the kernel has %x", dflt, mode, access, want)
		}
		var want []byte
		if isDir {
			want = kernelACL(t, path, meta.XattrACLDefault)
		}
		if !bytes.Equal(newDefault, want) {
			t.Fatalf("%x with mode %o: default %x, the kernel has %x", dflt, mode, newDefault, want)
		}
	}
}

func TestACL_InheritNothing(t *testing.T) {
	access, dflt, mode, err := meta.InheritACL(nil, 0o106777, false)
	if access != nil || dflt != nil || mode != 0o106777 || err != nil {
		t.Errorf("got %x, %x, %o, %v", access, dflt, mode, err)
	}
	// Type and set-id bits pass through an inherited ACL.
	_, _, mode, err = meta.InheritACL(meta.MakeACL([3]uint32{1, 6}, [3]uint32{4, 4}, [3]uint32{0x20, 0}), 0o106777, false)
	if mode != 0o106640 || err != nil {
		t.Errorf("mode %o, %v", mode, err)
	}
}

func TestACL_Versions(t *testing.T) {
	acl := meta.MakeACL([3]uint32{1, 7}, [3]uint32{4, 5}, [3]uint32{0x20, 5})
	for i, want := range []error{nil, meta.ErrUnsupported, meta.ErrUnsupported, meta.ErrUnsupported} {
		b := bytes.Clone(acl)
		if i > 0 {
			b[i] ^= 1
		}
		if _, err := meta.CanonicalACL(b); !errors.Is(err, want) {
			t.Errorf("byte %d changed: %v, want %v", i, err, want)
		}
	}
	if got, err := meta.CanonicalACL(meta.MakeACL()); got != nil || err != nil {
		t.Errorf("empty list: %x, %v", got, err)
	}
}

// An accepted ACL has one canonical form, and every operation on it gives
// another valid one.
func FuzzACL(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range 20 {
		f.Add(randomACL(rnd, i%2 == 0), uint32(i)*0o123)
	}
	f.Fuzz(func(t *testing.T, b []byte, mode uint32) {
		canonical, err := meta.CanonicalACL(b)
		if err != nil {
			if !errors.Is(err, meta.ErrInvalid) && !errors.Is(err, meta.ErrUnsupported) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if again, err := meta.CanonicalACL(canonical); err != nil || !bytes.Equal(again, canonical) {
			t.Fatalf("%x became %x, then %x, %v", b, canonical, again, err)
		}
		if canonical == nil {
			return
		}
		access, dflt, newMode, err := meta.InheritACL(canonical, mode, true)
		if err != nil || newMode&^mode != 0 || !bytes.Equal(dflt, canonical) {
			t.Fatalf("inherited mode %o of %o, %v", newMode, mode, err)
		}
		changed, err := meta.ChmodACL(canonical, newMode)
		if err != nil {
			t.Fatal(err)
		}
		if access != nil && !bytes.Equal(access, changed) {
			// Inheriting may leave the group entry below a mask wider than it.
			if m, _, err := meta.ACLToMode(access, newMode); err != nil || m != newMode {
				t.Fatalf("inherited ACL shows as %o, the file has %o (%v)", m, newMode, err)
			}
		}
		if m, _, err := meta.ACLToMode(changed, newMode); err != nil || m != newMode {
			t.Fatalf("after chmod %o the ACL shows as %o, %v", newMode, m, err)
		}
	})
}
