package platform

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"cmkfs/crypto"
	"cmkfs/hsm"
)

// The key file, 76 bytes:
//
//	offset  size  field
//	     0     8  magic "CMKFSPLK"
//	     8     4  version, little-endian: 1
//	    12    32  key
//	    44    32  SHA-256 of bytes 0 to 43
//
// A reader refuses any other length, magic, version or checksum.
const (
	magic      = "CMKFSPLK"
	version    = 1
	keyOffset  = 12
	sumOffset  = keyOffset + crypto.KeySize
	fileLength = sumOffset + sha256.Size
)

// Create makes a new key file, readable by its owner only. It never overwrites:
// an existing file is an error that is fs.ErrExist. A crash leaves either no
// file at path or a complete one (and perhaps a file path.tmp-*, which may be
// deleted).
func Create(path string) error {
	b := make([]byte, 0, fileLength)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = b[:sumOffset]
	rand.Read(b[keyOffset:])
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	defer clear(b)

	tmp := fmt.Sprintf("%s.tmp-%s", path, rand.Text()[:8])
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("platform key: %w", err)
	}
	defer os.Remove(tmp)
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("platform key: %w", err)
	}
	// Link, unlike rename, fails if the name exists.
	if err := os.Link(tmp, path); err != nil {
		return fmt.Errorf("platform key: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("platform key: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("platform key: %w", err)
	}
	return nil
}

// read returns the key in the file, which must belong to us and be closed to
// everybody else. The error is a *hsm.Error without its Op and KeyID.
func read(path string) (crypto.Key, error) {
	fail := func(k hsm.Kind, reason, message string, err error) (crypto.Key, error) {
		return crypto.Key{}, &hsm.Error{Op: "open", KeyID: path, Kind: k, Reason: reason, Message: message, Err: err}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold us
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail(hsm.KindDenied, "KeyFileMissing", "The platform key file does not exist", err)
	case errors.Is(err, os.ErrPermission):
		return fail(hsm.KindDenied, "KeyFilePermissions", "The platform key file may not be read", err)
	case err != nil:
		return fail(hsm.KindUnreachable, "KeyFileUnreadable", "The platform key file cannot be opened", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fail(hsm.KindUnreachable, "KeyFileUnreadable", "The platform key file cannot be read", err)
	}
	if !st.Mode().IsRegular() {
		return fail(hsm.KindMisconfigured, "KeyFileDamaged", "The platform key file is not a regular file", nil)
	}
	if st.Mode().Perm()&0o077 != 0 || st.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return fail(hsm.KindMisconfigured, "KeyFilePermissions", "The platform key file must belong to the daemon's user and be closed to all others (chmod 600)", nil)
	}
	var b [fileLength + 1]byte // one more shows that the file is too long
	defer clear(b[:])
	n, err := f.ReadAt(b[:], 0)
	if n == 0 && err != nil && st.Size() > 0 {
		return fail(hsm.KindUnreachable, "KeyFileUnreadable", "The platform key file cannot be read", err)
	}
	if n != fileLength || !bytes.HasPrefix(b[:], []byte(magic)) {
		return fail(hsm.KindMisconfigured, "KeyFileDamaged", "The platform key file is damaged", nil)
	}
	if v := binary.LittleEndian.Uint32(b[len(magic):]); v != version {
		return fail(hsm.KindMisconfigured, "KeyFileVersion", fmt.Sprintf("The platform key file has version %d, only %d is known", v, version), nil)
	}
	if sum := sha256.Sum256(b[:sumOffset]); !bytes.Equal(sum[:], b[sumOffset:fileLength]) {
		return fail(hsm.KindMisconfigured, "KeyFileDamaged", "The platform key file is damaged", nil)
	}
	k, err := crypto.KeyFromBytes(b[keyOffset:sumOffset])
	if err != nil {
		return fail(hsm.KindMisconfigured, "KeyFileDamaged", "The platform key file is damaged", err)
	}
	return k, nil
}
