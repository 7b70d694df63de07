package account

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// eventsFile is the audit log, a line per event.
const eventsFile = "events.jsonl"

// Event is one line of an account's audit log.
type Event struct {
	Seq      uint64    `json:"seq"` // 1, 2, 3, …
	Time     time.Time `json:"time"`
	Severity Severity  `json:"severity,omitempty"` // "" = of a log older than severities
	Kind     string    `json:"kind"`               // one of the Audit constants
	Account  string    `json:"account"`
	Volume   string    `json:"volume,omitempty"`
	From     string    `json:"from,omitempty"` // state-changed: the states
	To       string    `json:"to,omitempty"`   //
	KeyParams
	Reason string            `json:"reason,omitempty"` // one word or sentence
	Detail map[string]string `json:"detail,omitempty"` // never a secret
	// Prev is the SHA-256 of the line before, without its newline, in hex:
	// a line that is changed, removed or inserted later breaks the chain.
	Prev string `json:"prev"`
}

// KeyParams is which key an event is about and who asked for it, as far as that
// is known.
type KeyParams struct {
	KeyID       string `json:"keyId,omitempty"` // with its version
	VaultHost   string `json:"vaultHost,omitempty"`
	PrincipalID string `json:"principalId,omitempty"`
	ClientID    string `json:"clientId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
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
// daemon, or without one a command for a moment.
type EventLog struct {
	account string
	mu      struct {
		sync.Mutex
		f    *os.File
		head *os.File // see logHead
		end  int64    // where the next line begins; bytes after it are of a failed append
		seq  uint64
		prev string
		said said
		lost uint64 // the last line there should be, if it is missing; 0 = none is
	}
}

// OpenEvents opens or makes the audit log of an account. A last line that was
// torn by a crash was never acknowledged and is cut off. A broken chain is no
// reason to refuse service: the log goes on from the last line, and Events
// keeps reporting where it is broken.
//
// It fails with ErrLogTaken if another process has the log open, for as long as
// wait.
func (d *Dir) OpenEvents(account string, wait time.Duration) (*EventLog, error) {
	path := d.accountFile(account, eventsFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	head, err := os.OpenFile(d.accountFile(account, headFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		f.Close()
		return nil, err
	}
	l := &EventLog{account: account}
	l.mu.f, l.mu.head, l.mu.prev, l.mu.said = f, head, firstPrev, newSaid()
	err = lockLog(f, wait)
	if err == nil {
		err = l.recover()
	}
	if err == nil {
		err = syncDir(d.accountDir(account))
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return l, nil
}

// lockLog takes the log for this process, until the file is closed.
func lockLog(f *os.File, wait time.Duration) error {
	for end := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = ErrLogTaken
			}
			return err
		}
	}
}

// recover finds the end of the log, before anybody else has l. Lines that are
// missing at its end leave a gap in its numbers.
func (l *EventLog) recover() error {
	r := bufio.NewReader(l.mu.f)
	most := uint64(0) // the highest number that a reader takes
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		l.mu.end += int64(len(line))
		line = bytes.TrimSuffix(line, []byte("\n"))
		l.mu.seq++
		l.mu.prev = hashLine(line)
		var e Event
		if json.Unmarshal(line, &e) == nil && follows(e.Seq, most) {
			most = max(most, e.Seq)
			l.mu.seq = max(l.mu.seq, most)
			l.mu.said.take(e)
		}
	}
	if err := l.mu.f.Truncate(l.mu.end); err != nil {
		return err
	}
	head, err := readHead(l.mu.head)
	if err == nil && head.seq > l.mu.seq && head.seq-most <= maxGap/2 {
		l.mu.seq, l.mu.lost = head.seq, head.seq
	}
	return err
}

// maxGap is how many lines may be missing between two: a number further on is
// no line's. If the log went on from it, its numbers could end.
const maxGap = 1 << 32

// follows reports whether a line can have a number, most being the highest one
// before it.
func follows(seq, most uint64) bool { return seq <= most || seq-most <= maxGap }

// Append adds events durably; it fills in Seq, Account, Prev and, if they are
// zero, Time and Severity. Either all of them are in the log or none.
func (l *EventLog) Append(events ...Event) error {
	if len(events) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fail := func(err error) error {
		return fmt.Errorf("append to the audit log of account %s: %w", l.account, err)
	}
	var lines []byte
	seq, prev := l.mu.seq, l.mu.prev
	for i := range events {
		e := &events[i]
		seq++
		e.Seq, e.Account, e.Prev = seq, l.account, prev
		if e.Time.IsZero() {
			e.Time = time.Now()
		}
		e.Time = e.Time.UTC().Truncate(time.Millisecond)
		e.Severity = cmp.Or(e.Severity, severityOf(e.Kind))
		line, err := json.Marshal(e)
		if err != nil {
			return fail(err)
		}
		prev = hashLine(line)
		lines = append(append(lines, line...), '\n')
	}
	// A crash here leaves a torn last line, which recover cuts off; a failure
	// leaves lines that the next append overwrites, or else are cut off now.
	_, err := l.mu.f.WriteAt(lines, l.mu.end)
	if err == nil {
		err = l.mu.f.Sync()
	}
	if err != nil {
		_ = l.mu.f.Truncate(l.mu.end) // best effort: nobody has been told that they are there
		return fail(err)
	}
	l.mu.end += int64(len(lines))
	l.mu.seq, l.mu.prev = seq, prev
	for _, e := range events {
		l.mu.said.take(e)
	}
	// The log is what counts: one whose head lags is only less well guarded.
	_ = writeHead(l.mu.head, logHead{seq, prev})
	return nil
}

// Close closes the log.
func (l *EventLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.mu.f.Close(), l.mu.head.Close())
}

func hashLine(line []byte) string {
	h := sha256.Sum256(line)
	return hex.EncodeToString(h[:])
}
