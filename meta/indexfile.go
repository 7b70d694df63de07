package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// checkIndexFile refuses a file that bbolt would initialise, extend or fault
// on: it must have a valid bbolt meta page and be as long as that one says.
// bbolt itself checks neither the length nor whether the file is empty.
func checkIndexFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var pages [boltMetaPages * pageSize]byte
	if _, err := io.ReadFull(f, pages[:]); err != nil {
		return fmt.Errorf("it has only %d bytes", info.Size())
	}
	var used, newest uint64
	for i := range boltMetaPages {
		m := pages[i*pageSize+boltMetaOffset:]
		if binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion || binary.LittleEndian.Uint32(m[8:]) != pageSize {
			continue
		}
		if txid := binary.LittleEndian.Uint64(m[boltTxid:]); used == 0 || txid > newest {
			used, newest = binary.LittleEndian.Uint64(m[boltPages:]), txid
		}
	}
	if used == 0 {
		return errors.New("it is no bbolt database")
	}
	if used > uint64(info.Size())/pageSize {
		return fmt.Errorf("it is truncated: %d pages of %d", info.Size()/pageSize, used)
	}
	return nil
}

// Where bbolt keeps what checkIndexFile reads, in its format version 2.
const (
	boltMetaPages  = 2  // the first ones; commits write them in turn
	boltMetaOffset = 16 // behind the page's header
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltPages      = 40 // number of pages in use
	boltTxid       = 48
)
