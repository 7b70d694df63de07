// Package probe watches a volume from outside as an application would: a
// process of its own tries, by every usual way and all the time, to get at data
// that it had before, and says when it could and when not, and with which errno.
package probe

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cmkfs/drill/child"
)

// Job is what the process does; it is the JSON of its last argument.
type Job struct {
	Dir    string `json:"dir"`    // on the volume; made if it is not there
	Canary string `json:"canary"` // a text that is in every file and name there
	// Leak is a plain file that is read instead of the volume's after the first
	// failure, to see that readable data is noticed.
	Leak string `json:"leak,omitempty"`
}

// Slot is what one route saw in a short time.
type Slot struct {
	Route string    `json:"route"`
	From  time.Time `json:"from"` // the first try began
	Tries int       `json:"tries"`
	OK    int       `json:"ok"`
	// FirstOK and LastOK are when the tries that succeeded began.
	FirstOK time.Time      `json:"firstOk,omitzero"`
	LastOK  time.Time      `json:"lastOk,omitzero"`
	Errors  map[string]int `json:"errors,omitempty"` // by errno
	Longest time.Duration  `json:"longest"`
	Waiting time.Duration  `json:"waiting,omitempty"` // since when a try has not been answered
}

// slotTime is how long a slot is; pause is between two tries of a route.
const (
	slotTime = 20 * time.Millisecond
	pause    = 3 * time.Millisecond
)

const size = 256 << 10 // bytes of the file that is read

// Reads are the routes that give contents or names away; the others only change
// or ask for something.
var Reads = []string{"pread", "mmap", "readdir", "open and read", "readlink", "getxattr"}

// Routes are all of them.
var Routes = append([]string{"stat", "fstat", "pwrite", "create"}, Reads...)

// watcher is the process.
type watcher struct {
	job  Job
	file *os.File
	own  *os.File // that is written
	m    []byte
	mu   sync.RWMutex // held for writing while files are opened anew
	out  sync.Mutex
}

// Main runs a job and ends the process. Commands are "reopen" and "stop".
func Main(job string) {
	w := &watcher{}
	if err := json.Unmarshal([]byte(job), &w.job); err != nil {
		fail(err)
	}
	if err := w.prepare(); err != nil {
		fail(err)
	}
	if err := w.open(); err != nil {
		fail(err)
	}
	for name, try := range w.routes() {
		go w.watch(name, try)
	}
	fmt.Println(`{"route":"ready"}`)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "reopen":
			w.reopen()
		case "stop":
			os.Exit(0)
		}
	}
	os.Exit(0)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "drill probe:", err)
	os.Exit(1)
}

func (w *watcher) path(name string) string { return filepath.Join(w.job.Dir, name) }

// prepare makes what is tried: everything has the canary in it.
func (w *watcher) prepare() error {
	if err := os.Mkdir(w.job.Dir, 0o755); err != nil {
		return err
	}
	content := strings.Repeat(w.job.Canary+" ", size/(len(w.job.Canary)+1)+1)[:size]
	if err := os.WriteFile(w.path("file"), []byte(content), 0o600); err != nil {
		return err
	}
	if w.job.Leak != "" {
		if err := os.WriteFile(w.job.Leak, []byte(content), 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(w.path("name-"+w.job.Canary), nil, 0o600); err != nil {
		return err
	}
	if err := os.Symlink(w.job.Canary, w.path("link")); err != nil {
		return err
	}
	if err := unix.Setxattr(w.path("file"), "user.drill", []byte(w.job.Canary), 0); err != nil {
		return err
	}
	return os.WriteFile(w.path("own"), nil, 0o600)
}

func (w *watcher) open() (err error) {
	if w.file, err = os.Open(w.path("file")); err != nil {
		return err
	}
	if w.own, err = os.OpenFile(w.path("own"), os.O_RDWR, 0); err != nil {
		return err
	}
	w.m, err = unix.Mmap(int(w.file.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	return err
}

// reopen is after the volume was mounted anew. The old mapping stays: it must
// never give anything again, but nobody asks.
func (w *watcher) reopen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.file.Close()
	w.own.Close()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := w.open()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			fail(fmt.Errorf("after the volume was mounted anew: %w", err))
		}
	}
}

var errOther = errors.New("other data")

// shows fails unless the canary is in what was read.
func (w *watcher) shows(b []byte, err error) error {
	if err == nil && !strings.Contains(string(b), w.job.Canary) {
		return errOther
	}
	return err
}

// routes are the ways, by name.
func (w *watcher) routes() map[string]func() error {
	buf := map[string][]byte{}
	for _, r := range Reads {
		buf[r] = make([]byte, 4096)
	}
	at := 0
	return map[string]func() error{
		"pread": func() error {
			at = (at + 4096) % size
			_, err := w.file.ReadAt(buf["pread"], int64(at))
			return w.shows(buf["pread"], err)
		},
		"mmap": func() error {
			copy(buf["mmap"], w.m[8192:])
			return w.shows(buf["mmap"], nil)
		},
		"open and read": func() error {
			f, err := os.Open(w.path("file"))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Read(buf["open and read"])
			return w.shows(buf["open and read"], err)
		},
		"readdir": func() error {
			entries, err := os.ReadDir(w.job.Dir)
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return w.shows([]byte(strings.Join(names, "/")), err)
		},
		"readlink": func() error {
			to, err := os.Readlink(w.path("link"))
			return w.shows([]byte(to), err)
		},
		"getxattr": func() error {
			n, err := unix.Getxattr(w.path("file"), "user.drill", buf["getxattr"])
			return w.shows(buf["getxattr"][:max(0, n)], err)
		},
		"stat": func() error {
			var st unix.Stat_t
			return unix.Stat(w.path("file"), &st)
		},
		"fstat": func() error {
			_, err := w.file.Stat()
			return err
		},
		"pwrite": func() error {
			_, err := w.own.WriteAt([]byte("written by the probe"), 0)
			return err
		},
		"create": func() error {
			f, err := os.OpenFile(w.path("made"), os.O_CREATE|os.O_WRONLY, 0o600)
			if err == nil {
				f.Close()
			}
			return err
		},
	}
}

// try does one try; a mapped page that cannot be had is an error like others.
func (w *watcher) try(f func() error) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return child.Paged(f)
}

// watch tries one route over and over.
func (w *watcher) watch(name string, f func() error) {
	debug.SetPanicOnFault(true)
	var mu sync.Mutex // of s and began
	s := Slot{Route: name, From: time.Now()}
	began := time.Time{}
	go func() {
		for range time.Tick(slotTime) {
			mu.Lock()
			done := s
			if !began.IsZero() {
				done.Waiting = time.Since(began)
			}
			s = Slot{Route: name, From: time.Now()}
			mu.Unlock()
			w.print(done)
		}
	}()
	for ; ; time.Sleep(pause) {
		now := time.Now()
		mu.Lock()
		began = now
		mu.Unlock()
		err := w.try(f)
		if err != nil {
			err = w.leak(name, err)
		}
		mu.Lock()
		began = time.Time{}
		s.Tries++
		s.Longest = max(s.Longest, time.Since(now))
		if err == nil {
			s.OK++
			if s.LastOK = now; s.FirstOK.IsZero() {
				s.FirstOK = now
			}
		} else {
			if s.Errors == nil {
				s.Errors = map[string]int{}
			}
			s.Errors[child.Errno(err)]++
		}
		mu.Unlock()
	}
}

// leak turns a refused read into one of the plain file, if the probe is to show
// that it notices.
func (w *watcher) leak(name string, err error) error {
	if w.job.Leak == "" || name != "pread" {
		return err
	}
	b, leakErr := os.ReadFile(w.job.Leak)
	return w.shows(b, leakErr)
}

func (w *watcher) print(s Slot) {
	if s.Tries == 0 && s.Waiting == 0 {
		return
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	w.out.Lock()
	defer w.out.Unlock()
	if _, err := os.Stdout.Write(append(b, '\n')); err != nil {
		os.Exit(1) // nobody listens
	}
}
