package account

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// headFile has the number and hash of the log's last line, so that a log whose
// end was cut off is noticed: the chain alone cannot tell.
const headFile = "events.head"

// logHead is the last line as it was written. It is written after the line is
// on disk and not synced itself: after a crash of the host it may be older than
// the log, never newer. It is a guard against accidents and hasty hands; who
// can write to the state directory can write a new log and a new head.
type logHead struct {
	seq  uint64
	hash string
}

// The file has two slots, written in turn and each within one sector, so that
// one of them is whole whatever happens.
const (
	headSlot   = 512
	headFormat = "%020d %s\n"
)

func writeHead(f *os.File, h logHead) error {
	_, err := f.WriteAt(fmt.Appendf(nil, headFormat, h.seq, h.hash), int64(h.seq%2)*headSlot)
	return err
}

// readHead returns the newer slot; the head of a log that has none is zero.
func readHead(f *os.File) (logHead, error) {
	var newest logHead
	for slot := range int64(2) {
		b := make([]byte, len(fmt.Sprintf(headFormat, 0, firstPrev)))
		if _, err := f.ReadAt(b, slot*headSlot); errors.Is(err, io.EOF) {
			continue // it was never written
		} else if err != nil {
			return logHead{}, err
		}
		var h logHead
		if n, _ := fmt.Sscanf(string(b), "%d %64s", &h.seq, &h.hash); n != 2 || !strings.HasSuffix(string(b), h.hash+"\n") {
			continue
		}
		if h.seq > newest.seq {
			newest = h
		}
	}
	return newest, nil
}
