package worker

import (
	"errors"
	"fmt"
	"io"
	"os"

	"cmkfs/crypto"
)

// errNoKey reports a key socket that ended without a key.
var errNoKey = errors.New("no key arrived")

// readKey waits for the volume's key. If none can be had, or the supervisor
// dies, the socket is closed.
func readKey() (crypto.Key, error) {
	f := os.NewFile(FDKey, "key")
	defer f.Close()
	var key crypto.Key
	if _, err := io.ReadFull(f, key[:]); err != nil {
		return crypto.Key{}, fmt.Errorf("%w: %w", errNoKey, err)
	}
	return key, nil
}
