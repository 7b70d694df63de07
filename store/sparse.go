package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// sparse is the content of a file without its holes: bbolt makes its file far
// larger than what it writes.
type sparse struct {
	size   int64
	pieces []piece
}

type piece struct {
	off  int64
	data []byte
}

// readSparse reads a file on the host.
func readSparse(path string) (*sparse, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &sparse{size: st.Size()}
	for end := int64(0); ; {
		from, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		if end, err = f.Seek(from, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		p := piece{from, make([]byte, end-from)}
		if _, err := f.ReadAt(p.data, from); err != nil {
			return nil, err
		}
		s.pieces = append(s.pieces, p)
	}
}

// write makes a file with this content.
func (s *sparse) write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(s.size)
	for _, p := range s.pieces {
		if err == nil {
			_, err = f.WriteAt(p.data, p.off)
		}
	}
	return errors.Join(err, f.Close())
}
