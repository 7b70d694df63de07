package account

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// Event is one line of an account's audit log.
type Event struct {
	Seq     uint64            `json:"seq"` // 1, 2, 3, …
	Time    time.Time         `json:"time"`
	Kind    string            `json:"kind"` // account-created, volume-mounted, state-changed, …
	Account string            `json:"account"`
	Volume  string            `json:"volume,omitempty"`
	From    string            `json:"from,omitempty"`   // state-changed: the states
	To      string            `json:"to,omitempty"`     //
	Reason  string            `json:"reason,omitempty"` // one word or sentence
	Detail  map[string]string `json:"detail,omitempty"` // never a secret
	// Prev is the SHA-256 of the line before, without its newline, in hex:
	// a line that is changed, removed or inserted later breaks the chain.
	Prev string `json:"prev"`
}

// firstPrev is Prev of the first line.
var firstPrev = hex.EncodeToString(make([]byte, sha256.Size))

// ChainError reports an audit log that was changed afterwards.
type ChainError struct {
	Line int // counting from 1
	Err  error
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("the audit log was changed or damaged at line %d: %v", e.Line, e.Err)
}

func (e *ChainError) Unwrap() error { return e.Err }

// EventLog appends to an account's audit log. One process has it open: the
// daemon.
type EventLog struct {
	account string
	mu      struct {
		sync.Mutex
		f    *os.File
		end  int64 // where the next line begins; bytes after it are of a failed append
		seq  uint64
		prev string
	}
}

// OpenEvents opens or makes the audit log of an account. A last line that was
// torn by a crash was never acknowledged and is cut off. A broken chain is no
// reason to refuse service: the log goes on from the last line, and Events
// keeps reporting where it is broken.
func (d *Dir) OpenEvents(account string) (*EventLog, error) {
	path := d.accountFile(account, "events.jsonl")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &EventLog{account: account}
	l.mu.f, l.mu.prev = f, firstPrev
	if err := l.recover(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return l, syncDir(d.accountDir(account))
}

// recover finds the end of the log, before anybody else has l.
func (l *EventLog) recover() error {
	b, err := io.ReadAll(l.mu.f)
	if err != nil {
		return err
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	for line := range bytes.Lines(b[:whole]) {
		l.mu.seq++
		l.mu.prev = hashLine(bytes.TrimSuffix(line, []byte("\n")))
	}
	l.mu.end = int64(whole)
	return l.mu.f.Truncate(l.mu.end)
}

// Append adds an event durably; it fills in Seq, Account, Prev and, if it is
// zero, Time.
func (l *EventLog) Append(e Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq, e.Account, e.Prev = l.mu.seq+1, l.account, l.mu.prev
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	// A crash here leaves a torn last line, which recover cuts off; a failure
	// leaves one that the next append overwrites.
	line = append(line, '\n')
	if _, err := l.mu.f.WriteAt(line, l.mu.end); err != nil {
		return fmt.Errorf("append to the audit log of account %s: %w", l.account, err)
	}
	if err := l.mu.f.Sync(); err != nil {
		return fmt.Errorf("append to the audit log of account %s: %w", l.account, err)
	}
	l.mu.end += int64(len(line))
	l.mu.seq, l.mu.prev = e.Seq, hashLine(line[:len(line)-1])
	return nil
}

// Close closes the log.
func (l *EventLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.f.Close()
}

func hashLine(line []byte) string {
	h := sha256.Sum256(line)
	return hex.EncodeToString(h[:])
}

// Events calls fn with every event after the given number, oldest first, until
// fn fails. It verifies the chain from the first line on and returns a
// *ChainError if it is broken; the events before that were reported.
func (d *Dir) Events(account string, after uint64, fn func(Event) error) error {
	if _, err := d.Account(account); err != nil {
		return err
	}
	f, err := os.Open(d.accountFile(account, "events.jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	prev := firstPrev
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // a line without its newline is still being written
		}
		if err != nil {
			return err
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return &ChainError{Line: n, Err: err}
		}
		if e.Prev != prev {
			return &ChainError{Line: n, Err: errors.New("it does not continue the line before")}
		}
		prev = hashLine(line)
		if e.Seq <= after {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}
