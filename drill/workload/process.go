package workload

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"cmkfs/drill/child"
)

// Job is what one process does; it is the JSON of its last argument.
type Job struct {
	Kind      string `json:"kind"` // one of Kinds, or verify
	Dir       string `json:"dir"`  // on the volume, its own
	Ledger    string `json:"ledger"`
	Seed      uint64 `json:"seed"`
	Writeback bool   `json:"writeback,omitempty"` // the mount caches writes
	// LoseWrite makes the process note some writes that it never does, to see
	// that this is noticed.
	LoseWrite bool `json:"loseWrite,omitempty"`
}

// Kinds are what processes do, each in its own manner.
var Kinds = []string{"blocks", "appends", "mapping", "names"}

// Tally is what a process has done so far; it prints one now and then, a line
// of JSON each.
type Tally struct {
	At       time.Time        `json:"at"`
	Reads    int64            `json:"reads"`
	Writes   int64            `json:"writes"`
	Metadata int64            `json:"metadata"`
	Errors   map[string]int64 `json:"errors,omitempty"` // by "call ERRNO"
	Longest  time.Duration    `json:"longest"`          // of one system call
	Waiting  time.Duration    `json:"waiting,omitempty"`
	Call     string           `json:"call,omitempty"` // that is waited for, or took longest
	Ended    bool             `json:"ended,omitempty"`
}

// class says what an operation counts as.
type class int

const (
	read class = iota
	write
	metadata
)

// worker is the working process.
type worker struct {
	job    Job
	rng    *rand.Rand
	ledger *ledger
	last   uint64 // the last generation
	files  map[string]*os.File
	mapped []byte // of the file mapped; stays valid until it is opened anew

	mu struct {
		sync.Mutex
		tally Tally
		began time.Time // of the call under way; zero = none
		call  string
		stop  bool
		again bool // open everything anew
	}
}

// step is one operation of a kind; an error is a system call's and may happen.
type step func(*worker) error

// first is the first generation: smaller values mean something special.
const first = 16

// Main runs a job and ends the process. It takes commands from standard input:
// "reopen" after the volume was mounted anew, "stop" at the end; it also ends
// when nobody is there any more to say so.
func Main(job string) {
	var j Job
	if err := json.Unmarshal([]byte(job), &j); err != nil {
		fail(err)
	}
	if j.Kind == "verify" {
		if err := json.NewEncoder(os.Stdout).Encode(verify(j)); err != nil {
			fail(err)
		}
		os.Exit(0)
	}
	steps := map[string]step{"blocks": (*worker).blocks, "appends": (*worker).appends, "mapping": (*worker).mapping, "names": (*worker).names}
	step, ok := steps[j.Kind]
	if !ok {
		fail(fmt.Errorf("there is no kind %q", j.Kind))
	}
	l, err := newLedger(j.Ledger)
	if err != nil {
		fail(err)
	}
	if j.Writeback {
		l.note("o writeback")
	}
	w := &worker{job: j, ledger: l, last: first, files: map[string]*os.File{}}
	w.rng = rand.New(stream(j.Seed, j.Kind, 0))
	w.mu.tally.Errors = map[string]int64{}
	if err := os.Mkdir(j.Dir, 0o755); err != nil {
		fail(err)
	}
	w.run(step)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "drill workload:", err)
	os.Exit(1)
}

// endWait is how long a process waits for a call under way when it is to end.
const endWait = 10 * time.Second

// run works until it is told to stop, and prints tallies.
func (w *worker) run(s step) {
	working := make(chan struct{})
	go func() {
		defer close(working)
		debug.SetPanicOnFault(true) // a mapped page that cannot be had is an error like others
		for w.next() {
			if err := s(w); err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	commands := make(chan string)
	go func() {
		defer close(commands)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			commands <- in.Text()
		}
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	for {
		select {
		case <-tick.C:
			w.print(false)
		case c, ok := <-commands:
			w.mu.Lock()
			if ok && c == "reopen" {
				w.mu.again = true
			} else {
				w.mu.stop = true
			}
			stop := w.mu.stop
			w.mu.Unlock()
			if !stop {
				continue
			}
			select {
			case <-working:
			case <-time.After(endWait):
			}
			w.print(true)
			os.Exit(0)
		}
	}
}

// next reports whether to go on, and lets go of the files of a former mount.
func (w *worker) next() bool {
	w.mu.Lock()
	again, stop := w.mu.again, w.mu.stop
	w.mu.again = false
	w.mu.Unlock()
	if again {
		for name, f := range w.files {
			f.Close()
			delete(w.files, name)
		}
	}
	return !stop
}

func (w *worker) print(ended bool) {
	w.mu.Lock()
	t := w.mu.tally
	t.At, t.Ended = time.Now(), ended
	if !w.mu.began.IsZero() {
		t.Waiting, t.Call = time.Since(w.mu.began), w.mu.call
	}
	b, err := json.Marshal(t)
	w.mu.Unlock()
	if err == nil {
		_, err = os.Stdout.Write(append(b, '\n'))
	}
	if err != nil {
		os.Exit(1) // nobody listens
	}
}

// call does one system call and counts it.
func (w *worker) call(c class, name string, f func() error) error {
	began := time.Now()
	w.mu.Lock()
	w.mu.began, w.mu.call = began, name
	w.mu.Unlock()
	err := child.Paged(f)
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &w.mu.tally
	if took := time.Since(began); took > t.Longest {
		t.Longest, t.Call = took, name
	}
	w.mu.began = time.Time{}
	switch {
	case err != nil:
		t.Errors[name+" "+child.Errno(err)]++
	case c == read:
		t.Reads++
	case c == write:
		t.Writes++
	default:
		t.Metadata++
	}
	return err
}

func (w *worker) path(name string) string { return filepath.Join(w.job.Dir, name) }

// file returns an open descriptor, kept from one operation to the next.
func (w *worker) file(name string) (*os.File, error) {
	if f := w.files[name]; f != nil {
		return f, nil
	}
	var f *os.File
	err := w.call(metadata, "open", func() (err error) {
		f, err = os.OpenFile(w.path(name), os.O_RDWR|os.O_CREATE, 0o600)
		return err
	})
	if err == nil {
		w.files[name] = f
	}
	return f, err
}

// generate returns a new generation.
func (w *worker) generate() uint64 {
	w.last++
	return w.last
}

// wrong notes content that cannot be.
func (w *worker) wrong(format string, args ...any) {
	w.ledger.note("w " + w.job.Kind + ": " + fmt.Sprintf(format, args...))
}
