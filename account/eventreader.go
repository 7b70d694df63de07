package account

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
)

// Events calls fn with every event after the given number, oldest first, until
// fn fails. It verifies the chain from the first line on. If it is broken, all
// events that can be read are reported and the error is a *ChainError about the
// first break.
func (d *Dir) Events(account string, after uint64, fn func(Event) error) error {
	r, err := d.ReadEvents(account)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.Read(func(e Event) error {
		if e.Seq <= after {
			return nil
		}
		return fn(e)
	})
}

// EventReader reads an audit log while it is being written.
type EventReader struct {
	path, headPath string
	f              *os.File // nil = there is no log yet
	at             int64    // behind the last line read; what follows may be torn and written again
	lines          int      // read so far
	prev           string   // hash of the last one
	seq            uint64   // of the last one
	most           uint64   // the highest number so far
	broken         *ChainError
}

// ReadEvents opens an account's audit log for reading; a log that does not
// exist yet is empty.
func (d *Dir) ReadEvents(account string) (*EventReader, error) {
	if _, err := d.Account(account); err != nil {
		return nil, err
	}
	return &EventReader{path: d.accountFile(account, eventsFile), headPath: d.accountFile(account, headFile), prev: firstPrev}, nil
}

// Close ends the reading.
func (r *EventReader) Close() error {
	if r == nil || r.f == nil {
		return nil
	}
	return r.f.Close()
}

// Read calls fn with the events that have come since the last Read, until fn
// fails. The error is a *ChainError if the log is broken anywhere so far.
func (r *EventReader) Read(fn func(Event) error) error {
	// Before the log: its end may move on meanwhile, but never back.
	head, err := r.head()
	if err != nil {
		return err
	}
	if r.f == nil {
		if r.f, err = os.Open(r.path); errors.Is(err, fs.ErrNotExist) {
			r.f = nil
			return r.verdict(r.checkEnd(head))
		} else if err != nil {
			r.f = nil
			return err
		}
	}
	b := bufio.NewReader(io.NewSectionReader(r.f, r.at, math.MaxInt64-r.at))
	for {
		line, err := b.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return r.verdict(r.checkEnd(head))
		}
		if err != nil {
			return err
		}
		r.at += int64(len(line))
		if err := r.take(bytes.TrimSuffix(line, []byte("\n")), head, fn); err != nil {
			return err
		}
	}
}

func (r *EventReader) head() (logHead, error) {
	f, err := os.Open(r.headPath)
	if errors.Is(err, fs.ErrNotExist) {
		return logHead{}, nil // of a log older than heads
	}
	if err != nil {
		return logHead{}, err
	}
	defer f.Close()
	return readHead(f)
}

// take verifies one line and reports its event, if it is one.
func (r *EventReader) take(line []byte, head logHead, fn func(Event) error) error {
	r.lines++
	var e Event
	err := json.Unmarshal(line, &e)
	if err == nil && !follows(e.Seq, r.most) {
		err = fmt.Errorf("it has the number %d after %d", e.Seq, r.most)
	}
	if err != nil {
		r.breakAt(r.lines, err)
		r.prev = hashLine(line)
		return nil
	}
	switch {
	case e.Prev != r.prev:
		r.breakAt(r.lines, errors.New("it does not continue the line before"))
	case e.Seq <= r.seq:
		r.breakAt(r.lines, fmt.Errorf("it has the number %d after %d", e.Seq, r.seq))
	case e.Seq != r.seq+1:
		r.breakAt(r.lines, fmt.Errorf("events %d to %d are missing before it", r.seq+1, e.Seq-1))
	}
	r.prev, r.seq, r.most = hashLine(line), e.Seq, max(r.most, e.Seq)
	if e.Seq == head.seq && r.prev != head.hash {
		r.breakAt(r.lines, errors.New("it is not what was written"))
	}
	return fn(e)
}

// checkEnd finds a log that was longer once.
func (r *EventReader) checkEnd(head logHead) *ChainError {
	if head.seq > r.seq {
		return &ChainError{Line: r.lines + 1, Err: fmt.Errorf("events %d to %d are missing at its end", r.seq+1, head.seq)}
	}
	return nil
}

func (r *EventReader) breakAt(line int, err error) {
	if r.broken == nil {
		r.broken = &ChainError{Line: line, Err: err}
	}
}

// verdict is the first break, as a plain error.
func (r *EventReader) verdict(atEnd *ChainError) error {
	switch {
	case r.broken != nil:
		return r.broken
	case atEnd != nil:
		return atEnd
	}
	return nil
}
