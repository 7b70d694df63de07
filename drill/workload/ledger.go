package workload

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A ledger's lines, one letter and what it is about:
//
//	i PLACE VALUE   asked for: the place is to have this value
//	d PLACE VALUE   done: the system call said so
//	f PLACE VALUE   failed: the place may have it or not
//	y FILE          fsync or msync of the file said yes
//	n FILE          it said no: what was written since the last yes may be gone
//	s PLACE VALUE   seen, after a failure: this it is
//	w TEXT          wrong: something was read that cannot be there
//	o writeback     the mount caches writes: only there does n mean anything; an
//	                answered write is kept otherwise, whatever fsync says later
const (
	lineIssued   = 'i'
	lineDone     = 'd'
	lineFailed   = 'f'
	lineSynced   = 'y'
	lineUnsynced = 'n'
	lineSeen     = 's'
	lineWrong    = 'w'
	lineOption   = 'o'
)

// cell is what is known of one place: a block of a file, a name, the size of an
// appended file. A value is a generation; 0 = nothing.
type cell struct {
	acked uint64
	maybe []uint64 // asked for since, and not answered or failed
	since []uint64 // what it was allowed to be at the last fsync and after, before acked
}

// allowed are the values the place may have.
func (c *cell) allowed() []uint64 { return append([]uint64{c.acked}, c.maybe...) }

// certain says whether there is only one.
func (c *cell) certain() bool { return len(c.maybe) == 0 }

// sized says whether a place is a size: what is between two values is allowed.
func sized(place string) bool { return strings.HasSuffix(place, "#size") }

func (c *cell) allows(place string, v uint64) bool {
	all := c.allowed()
	if sized(place) {
		return v >= slices.Min(all) && v <= slices.Max(all)
	}
	return slices.Contains(all, v)
}

// set is a value that an operation gives a place.
type set struct {
	place string
	value uint64
}

// ledger is kept by one process. Lines reach the kernel before and after each
// operation, so that they survive the process.
type ledger struct {
	file  *os.File // nil = replayed
	cells map[string]*cell
	order []string // of cells, as they came
	dirty map[string][]string
	acks  int64 // writes that were acknowledged
	wrong []string
	loose bool // a failed fsync may have lost answered writes
}

func newLedger(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	return &ledger{file: f, cells: map[string]*cell{}, dirty: map[string][]string{}}, err
}

// replay reads what a process has noted. A last line that it did not finish is
// left out: the operation had not begun.
func replay(path string) (*ledger, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &ledger{cells: map[string]*cell{}, dirty: map[string][]string{}}
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if err != nil {
			return l, nil
		}
		if err := l.take(strings.TrimSuffix(line, "\n")); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
}

// note applies lines and writes them down, before anything else happens.
func (l *ledger) note(lines ...string) {
	for _, line := range lines {
		if err := l.take(line); err != nil {
			panic(err) // we made it
		}
	}
	if _, err := l.file.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		panic(fmt.Errorf("the drill's ledger: %w", err)) // without it nothing can be said
	}
}

func (l *ledger) noteSets(kind byte, sets []set) {
	lines := make([]string, len(sets))
	for i, s := range sets {
		lines[i] = fmt.Sprintf("%c %s %d", kind, s.place, s.value)
	}
	l.note(lines...)
}

// do performs an operation that gives places values.
func (l *ledger) do(op func() error, sets ...set) error {
	l.noteSets(lineIssued, sets)
	err := op()
	if err != nil {
		l.noteSets(lineFailed, sets)
		return err
	}
	l.noteSets(lineDone, sets)
	return nil
}

// sync performs the fsync or msync of a file.
func (l *ledger) sync(file string, op func() error) error {
	err := op()
	kind := lineSynced
	if err != nil {
		kind = lineUnsynced
	}
	l.note(fmt.Sprintf("%c %s", kind, file))
	return err
}

// at returns a place's cell.
func (l *ledger) at(place string) *cell {
	c := l.cells[place]
	if c == nil {
		c = &cell{}
		l.cells[place] = c
		l.order = append(l.order, place)
	}
	return c
}

func (l *ledger) take(line string) error {
	if len(line) < 3 {
		return fmt.Errorf("the line %q is too short", line)
	}
	kind, rest := line[0], line[2:]
	switch kind {
	case lineWrong:
		l.wrong = append(l.wrong, rest)
		return nil
	case lineOption:
		l.loose = rest == "writeback"
		return nil
	case lineSynced, lineUnsynced:
		for _, place := range l.dirty[rest] {
			c := l.at(place)
			if kind == lineUnsynced && l.loose {
				c.maybe = append(c.maybe, c.since...)
			}
			c.since = nil
		}
		l.dirty[rest] = nil
		return nil
	}
	place, number, _ := strings.Cut(rest, " ")
	var v uint64
	if _, err := fmt.Sscan(number, &v); err != nil {
		return fmt.Errorf("the line %q has no value", line)
	}
	c := l.at(place)
	switch kind {
	case lineIssued:
		c.maybe = append(c.maybe, v)
	case lineDone:
		if file, _, ok := strings.Cut(place, "#"); ok {
			if len(c.since) == 0 {
				l.dirty[file] = append(l.dirty[file], place)
			}
			c.since = append(c.since, c.allowed()...)
		}
		c.acked, c.maybe = v, nil
		l.acks++
	case lineFailed:
	case lineSeen:
		c.acked, c.maybe = v, nil
	default:
		return fmt.Errorf("the line %q is of no kind", line)
	}
	return nil
}
