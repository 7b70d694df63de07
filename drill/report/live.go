package report

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

const (
	lineEvery   = Offset(time.Second)            // where the output is no terminal
	redrawEvery = Offset(200 * time.Millisecond) // where it is
	rateOver    = Offset(time.Second)            // what rates are averaged over
)

// Heading is what is known of a drill before it starts.
type Heading struct {
	Drill, Title string
	Number, Of   int           // this is the Number'th drill of Of, from 1
	Planned      time.Duration // 0 = not known
	Expectations []string      // texts, in the order in which they are shown; others follow them
}

// Live shows a drill while it runs: a table that is redrawn in place if the
// output is a terminal, one line a second if it is not. It takes what a Report
// is made of, as it comes. The time it goes by is that of the samples: nothing
// is drawn between two of them. All methods may be called at any time by
// anybody; errors of the output are ignored, for a drill must go on.
type Live struct {
	out      io.Writer
	size     func() (width, height int) // in characters; nil = no terminal
	coloured bool

	mu struct {
		sync.Mutex
		lines int // of the table on the screen
		progress
	}
}

// progress is what Live knows of the drill that runs.
type progress struct {
	Heading
	now, drawn   Offset
	phase        Phase
	state, mount held
	rates        rates
	errors       int64
	checks       map[string]int
	lastCheck    Check
	lastEvent    Event
	expectations []settled
}

// held is a state, and since when.
type held struct {
	name  string
	since Offset
}

// settled is an expectation that may be known.
type settled struct {
	Expectation
	known bool
}

// rates counts the operations since from; shown is of the interval before.
type rates struct {
	from         Offset
	count, shown Sample
}

// NewLive returns a Live that writes to out.
func NewLive(out io.Writer) *Live {
	l := &Live{out: out}
	l.mu.checks = map[string]int{}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		l.coloured = os.Getenv("NO_COLOR") == ""
		l.size = func() (int, int) {
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil || width < 20 || height < 5 {
				return 80, 24
			}
			return width, height
		}
	}
	return l
}

// Begin starts a drill.
func (l *Live) Begin(h Heading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Drill, h.Title = plain(h.Drill), plain(h.Title)
	l.mu.progress = progress{Heading: h, checks: map[string]int{}}
	for _, t := range h.Expectations {
		l.mu.expectations = append(l.mu.expectations, settled{Expectation: Expectation{Text: plain(t)}})
	}
	if l.size == nil {
		l.printLocked("%s", heading(h))
	}
	l.drawLocked()
}

// Phase says that a phase begins.
func (l *Live) Phase(name string, at Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.phase = Phase{Name: plain(name), From: at}
	l.drawLocked()
}

// Sample adds a sample and moves the time on.
func (l *Live) Sample(s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.mu.progress
	p.now = s.At
	p.errors += s.Errors
	p.state.be(plain(s.State), s.At)
	p.mount.be(plain(s.Mount), s.At)
	p.rates.add(s)
	switch {
	case l.size != nil:
		if p.now-p.drawn >= redrawEvery {
			l.drawLocked()
		}
	case p.now-p.drawn >= lineEvery:
		p.drawn = p.now
		l.printLocked("%s", p.line())
	}
}

// Check adds a check of the key.
func (l *Live) Check(c Check) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.Class, c.Detail = plain(c.Class), plain(c.Detail)
	l.mu.checks[c.Class]++
	l.mu.lastCheck = c
	l.drawLocked()
}

// Event adds a line to the timeline.
func (l *Live) Event(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Source, e.Text = plain(e.Source), plain(e.Text)
	l.mu.lastEvent = e
	if l.size == nil {
		l.printLocked("%8s  %s: %s", e.At, e.Source, e.Text)
	}
	l.drawLocked()
}

// Expect settles an expectation, known by its text.
func (l *Live) Expect(e Expectation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Text, e.Detail = plain(e.Text), plain(e.Detail)
	found := false
	for i := range l.mu.expectations {
		if x := &l.mu.expectations[i]; x.Text == e.Text {
			*x, found = settled{e, true}, true
		}
	}
	if !found {
		l.mu.expectations = append(l.mu.expectations, settled{e, true})
	}
	if l.size == nil && !e.Held {
		l.printLocked("%8s  not held: %s: %s", l.mu.now, e.Text, e.Detail)
	}
	l.drawLocked()
}

// End leaves the verdict instead of the table, and what did not hold.
func (l *Live) End(r *Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.eraseLocked()
	mark := l.paint("PASS", text.FgGreen, text.Bold)
	if !r.Passed {
		mark = l.paint("FAIL", text.FgRed, text.Bold)
	}
	io.WriteString(l.out, mark+" ")
	l.printLocked("%s in %v: detect %s, stop %s, recover %s; %s writes, %d lost, %d plaintext", r.Drill, r.Duration,
		show(r.Detect), show(r.Stop), show(r.Recover), humanize.Comma(r.Acknowledged), r.Lost, r.Plaintext)
	for _, why := range r.reasons() {
		l.printLocked("     %s", why)
	}
}

// printLocked writes one line, with nothing in it that moves the cursor.
func (l *Live) printLocked(format string, args ...any) {
	io.WriteString(l.out, plain(fmt.Sprintf(format, args...))+"\n")
}

// drawLocked replaces the table on a terminal.
func (l *Live) drawLocked() {
	if l.size == nil {
		return
	}
	l.mu.drawn = l.mu.now
	width, height := l.size()
	var b bytes.Buffer
	b.WriteString(l.upLocked())
	lines := strings.Split(l.mu.table(width, l.paint), "\n")
	if len(lines) > height-1 { // what has scrolled away cannot be redrawn
		lines = lines[:height-1]
	}
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n") // erases the rest of the line
	}
	b.WriteString("\x1b[J") // erases the lines below
	l.mu.lines = len(lines)
	l.out.Write(b.Bytes())
}

func (l *Live) eraseLocked() {
	if l.size != nil {
		io.WriteString(l.out, l.upLocked()+"\x1b[J")
		l.mu.lines = 0
	}
}

// upLocked moves the cursor to the start of the table.
func (l *Live) upLocked() string {
	if l.mu.lines == 0 {
		return ""
	}
	return text.CursorUp.Sprintn(l.mu.lines) + "\r"
}

// paint colours s if the output has colours.
func (l *Live) paint(s string, colours ...text.Color) string {
	if !l.coloured {
		return s
	}
	return text.Colors(colours).Sprint(s)
}

// be changes the state, if it is another.
func (h *held) be(name string, at Offset) {
	if name != h.name {
		*h = held{name, at}
	}
}

// add counts a sample, and closes the interval if it is long enough.
func (r *rates) add(s Sample) {
	r.count.Reads += s.Reads
	r.count.Writes += s.Writes
	r.count.Metadata += s.Metadata
	r.count.Errors += s.Errors
	if took := s.At - r.from; took >= rateOver {
		per := func(n int64) int64 { return int64(float64(n) / took.Seconds()) }
		r.shown = Sample{Reads: per(r.count.Reads), Writes: per(r.count.Writes),
			Metadata: per(r.count.Metadata), Errors: per(r.count.Errors)}
		r.from, r.count = s.At, Sample{}
	}
}

// plain replaces what would control a terminal. Live keeps no other texts.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
