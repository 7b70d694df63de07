package report_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cmkfs/drill/report"
)

// play tells l what happened in r, in the order in which it did.
func play(l *report.Live, r *report.Report) {
	h := report.Heading{Drill: r.Drill, Title: r.Title, Number: 2, Of: 40, Planned: time.Duration(r.Duration)}
	for _, e := range r.Expectations {
		h.Expectations = append(h.Expectations, e.Text)
	}
	l.Begin(h)
	phases, events, checks := r.Phases, r.Timeline, r.Checks
	for _, s := range r.Samples {
		for ; len(phases) > 0 && phases[0].From <= s.At; phases = phases[1:] {
			l.Phase(phases[0].Name, phases[0].From)
		}
		for ; len(events) > 0 && events[0].At <= s.At; events = events[1:] {
			l.Event(events[0])
		}
		for ; len(checks) > 0 && checks[0].At <= s.At; checks = checks[1:] {
			l.Check(checks[0])
		}
		l.Sample(s)
	}
	for _, e := range r.Expectations {
		l.Expect(e)
	}
	l.End(r)
}

func TestLive_Lines(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := failed("key-disabled")
	play(report.NewLive(f), r)
	out := string(read(t, f.Name()))
	if strings.Contains(out, "\x1b") {
		t.Errorf("a file was taken for a terminal:\n%q", out)
	}
	perSecond := regexp.MustCompile(`(?m)^ +[0-9.]+ m?s  (steady|outage|restored|verified), account (online|degraded|suspending|suspended|restoring), mount [a-z]+: [0-9,]+ reads/s, .* expectations held$`)
	if n := len(perSecond.FindAllString(out, -1)); n != 60 {
		t.Errorf("%d lines in 60 seconds:\n%s", n, out)
	}
	for _, want := range []string{"2/40 key-disabled: the key is disabled", "  drill: key disabled\n", "not held: no plaintext is found after the stop: /w1/3",
		"FAIL key-disabled in 60.0 s: detect 4.80 s, stop 42 ms, recover 3.60 s; 48,211 writes, 3 lost, 1 plaintext\n     not held: "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

// TestLive_Terminal looks at the screen: there is one table, and nothing of it
// is left at the end.
func TestLive_Terminal(t *testing.T) {
	for _, size := range [][2]int{{100, 30}, {60, 30}, {100, 10}} {
		s := &screen{width: size[0], height: size[1]}
		l := report.NewLiveOnTerminal(s, size[0], size[1])
		r := failed("key-disabled")
		r.Samples = r.Samples[:150] // up to half time
		l.Begin(report.Heading{Drill: r.Drill, Title: r.Title, Planned: time.Minute, Expectations: []string{r.Expectations[0].Text, "one more"}})
		for i, sample := range r.Samples {
			l.Sample(sample)
			l.Expect(r.Expectations[i%2*3])
		}
		l.Phase("outage", r.Phases[1].From)
		l.Check(r.Checks[12])
		shown := s.String()
		if n := strings.Count(shown, "progress"); n != 1 {
			t.Errorf("%v: %d tables:\n%s", size, n, shown)
		}
		want := []string{"drill", "█░", "30.0 s of 60.0 s", "outage for 15.0 s", "suspended for"}
		if size[1] > 20 {
			want = append(want, "✓ held", "✗ not held", "one more", "1 denied", "1 of 3 expectations held, 1 not")
		}
		for _, w := range want {
			if !strings.Contains(shown, w) {
				t.Errorf("%v: %q is missing in\n%s", size, w, shown)
			}
		}
		l.End(r)
		if shown = s.String(); !strings.HasPrefix(shown, "FAIL key-disabled in ") || strings.Contains(shown, "progress") {
			t.Errorf("%v: left at the end:\n%s", size, shown)
		}
	}
}

func TestLive_HostileText(t *testing.T) {
	const bad = "\x1b[2J\x1b[99A\rnews\n\x9b1mfrom\x07afar"
	r := failed("spoiled")
	r.Title, r.Failure = bad, bad
	r.Phases[0].Name, r.Samples[0].State, r.Checks[0].Class, r.Checks[0].Detail, r.Timeline[0].Text = bad, bad, bad, bad, bad
	r.Expectations[0] = report.Expectation{Text: bad, Detail: bad}
	var lines, summary bytes.Buffer
	play(report.NewLive(&lines), r)
	if err := report.Summary(&summary, []*report.Report{r}); err != nil {
		t.Fatal(err)
	}
	if out := lines.String() + summary.String(); strings.ContainsAny(out, "\x1b\r\x07\u009b") || strings.Contains(out, "\nfrom") {
		t.Errorf("control characters in %q", out)
	}
	s := &screen{width: 80, height: 40}
	play(report.NewLiveOnTerminal(s, 80, 40), r)
	if shown := s.String(); !strings.HasPrefix(shown, "FAIL spoiled") {
		t.Errorf("the terminal was left as\n%s", shown)
	}
}

func TestLive_ManyAtOnce(t *testing.T) {
	l := report.NewLiveOnTerminal(&screen{width: 80, height: 40}, 80, 40)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { play(l, example("key-disabled", 5*time.Second, 1)) })
	}
	wg.Wait()
}

func TestSummary(t *testing.T) {
	var b bytes.Buffer
	if err := report.Summary(&b, []*report.Report{example("key-disabled", time.Minute, 1), failed("lost-write"), incomplete("token-removed")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`key-disabled +│ passed`, `lost-write +│ failed .*│ +3 │ +1 │`, `token-removed │ incomplete │ +1.20 s │ +– │`,
		`3 drills +│ 1 passed +│ 2 min 1 s`, "(?m)^lost-write: not held: no plaintext is found", "(?m)^token-removed: incomplete: softhsm2-util"} {
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("%s is missing in\n%s", want, &b)
		}
	}
}

// screen is as much of a terminal as Live needs. It fails a test by panic if
// it gets anything else, or a line that does not fit.
type screen struct {
	width, height int
	lines         []string
	row           int
}

var sequence = regexp.MustCompile("^\x1b\\[([0-9;]*)([A-Za-z])")

func (s *screen) Write(b []byte) (int, error) {
	rest := []rune(string(b))
	for len(rest) > 0 {
		for len(s.lines) <= s.row {
			s.lines = append(s.lines, "")
		}
		switch c := rest[0]; {
		case c == '\x1b':
			m := sequence.FindStringSubmatch(string(rest))
			if m == nil {
				panic(fmt.Sprintf("unknown sequence %q", string(rest)))
			}
			s.control(m[1], m[2])
			rest = rest[len([]rune(m[0]))-1:]
		case c == '\n':
			s.row++
		case c == '\r':
			if s.lines[s.row] != "" {
				s.lines[s.row] = "" // what follows in these tests is a whole line
			}
		default:
			s.lines[s.row] += string(c)
			if len([]rune(s.lines[s.row])) > s.width && strings.ContainsAny(s.lines[s.row][:3], "╭│├╰") {
				panic(fmt.Sprintf("%q is wider than %d", s.lines[s.row], s.width))
			}
		}
		rest = rest[1:]
	}
	return len(b), nil
}

func (s *screen) control(argument, command string) {
	switch command {
	case "m", "K":
	case "A":
		n, _ := strconv.Atoi(argument)
		if n >= s.height || n > s.row {
			panic(fmt.Sprintf("%d lines up from line %d of a screen of %d", n, s.row, s.height))
		}
		s.row -= n
		for i := s.row; i < len(s.lines); i++ {
			s.lines[i] = ""
		}
	case "J":
		s.lines = s.lines[:s.row]
	default:
		panic("unknown command " + command)
	}
}

func (s *screen) String() string { return strings.Join(s.lines, "\n") }
