package report_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"cmkfs/drill/report"
)

// pages are the kinds of pages that must be right.
func pages() map[string][]*report.Report {
	many := []*report.Report{failed("lost-write"), incomplete("token-removed"), flapping("flapping")}
	for i := range 37 {
		many = append(many, example(fmt.Sprintf("drill-%d", i), 20*time.Second, uint64(i)))
	}
	return map[string][]*report.Report{
		"none":       nil,
		"bare":       {{Drill: "bare"}},
		"one":        {example("key-disabled", time.Minute, 1)},
		"long":       {example("key-disabled", 10*time.Minute, 1)},
		"failed":     {failed("key-disabled")},
		"incomplete": {incomplete("token-removed")},
		"flapping":   {flapping("flapping")},
		"many":       many,
	}
}

// hostile is a text that would run, load or end something where it is not escaped.
const hostile = `</script><script>alert(1)</script><img src=http://example.com/x onerror=alert(1)> "' --> ]]> {{.}} \u2028 url(http://example.com/y)`

func TestWriteHTML_SelfContained(t *testing.T) {
	all := pages()
	all["hostile"] = []*report.Report{spoiled(), spoiled()}
	for name, reports := range all {
		dir := t.TempDir()
		if err := report.WriteHTML(dir, reports); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		content := read(t, filepath.Join(dir, report.HTMLName))
		doc := parse(t, content)
		for _, n := range doc.all {
			if !slices.Contains(strings.Fields("html head meta title style body header h1 p strong main nav div table thead tbody tr th td a span article h2 h3 dl dt dd figure figcaption script details summary"), n.Data) {
				t.Errorf("%s: element <%s>", name, n.Data)
			}
			for _, a := range n.Attr {
				switch key := strings.ToLower(a.Key); {
				case key == "href" && strings.HasPrefix(a.Val, "#") && doc.ids[a.Val[1:]]:
				case key == "src", key == "href", key == "style", strings.HasPrefix(key, "on"):
					t.Errorf("%s: <%s %s=%q>", name, n.Data, a.Key, a.Val)
				}
			}
			if n.Data == "style" && regexp.MustCompile(`(?i)url\(|@import|</`).MatchString(text(n)) {
				t.Errorf("%s: a style asks for something else", name)
			}
		}
		if strings.Contains(doc.policy, "http") || !strings.HasPrefix(doc.policy, "default-src 'none';") {
			t.Errorf("%s: policy %q", name, doc.policy)
		}
		for _, s := range doc.scripts {
			sum := sha256.Sum256([]byte(s))
			if !strings.Contains(doc.policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
				t.Errorf("%s: the policy does not know the script %.40q", name, s)
			}
		}
		if len(doc.scripts) != 2 {
			t.Errorf("%s: %d scripts", name, len(doc.scripts))
		}
	}
}

// spoiled is a report with hostile text in every place that takes any.
func spoiled() *report.Report {
	r := failed("spoiled")
	r.Title, r.Source, r.Volume, r.Version, r.Failure = hostile, hostile, hostile, hostile, hostile
	r.Phases[0].Name, r.Samples[0].State, r.Samples[0].Mount = hostile, hostile, hostile
	r.Checks[0] = report.Check{At: 1, Class: hostile, Detail: hostile}
	r.Timeline[0] = report.Event{Source: hostile, Text: hostile, Kind: hostile}
	r.Errors[0].Call, r.Errors[0].Errno = hostile, hostile
	r.Expectations[0] = report.Expectation{Text: hostile, Detail: hostile}
	return r
}

func TestWriteHTML_SaysEverything(t *testing.T) {
	for name, reports := range pages() {
		content, err := report.Render(reports)
		if err != nil {
			t.Fatal(err)
		}
		doc := parse(t, content)
		if n := len(doc.class("verdict")); len(reports) > 1 && n != 2*len(reports) || len(reports) == 1 && n != 1 {
			t.Errorf("%s: %d verdicts", name, n)
		}
		articles := doc.named("article")
		if len(articles) != len(reports) {
			t.Fatalf("%s: %d articles", name, len(articles))
		}
		for i, r := range reports {
			shown := text(articles[i])
			want := []string{r.Drill, r.Title, r.Verdict(), r.Failure}
			for _, e := range r.Expectations {
				want = append(want, e.Text, e.Detail)
			}
			for _, e := range r.Timeline {
				want = append(want, e.Text)
			}
			for _, c := range r.Checks {
				want = append(want, c.Detail)
			}
			for _, e := range r.Errors {
				want = append(want, e.Call, e.Errno)
			}
			for _, w := range want {
				if !strings.Contains(shown, w) {
					t.Errorf("%s: %s does not say %q", name, r.Drill, w)
				}
			}
			if n := strings.Count(shown, "✗ not held"); r.Passed != (n == 0) && len(r.Expectations) > 0 {
				t.Errorf("%s: %s has %d expectations that were not held", name, r.Drill, n)
			}
		}
	}
}

// TestWriteHTML_Plot looks at what the plot is drawn from.
func TestWriteHTML_Plot(t *testing.T) {
	for name, reports := range pages() {
		content, err := report.Render(reports)
		if err != nil {
			t.Fatal(err)
		}
		plots := parse(t, content).class("plot")
		for _, r := range reports {
			if len(r.Samples) == 0 {
				continue
			}
			var d struct {
				Time, Reads, Writes, Metadata, Errors []float64
				Phases, Account, Mount, Checks, Marks []map[string]any
			}
			if err := json.Unmarshal([]byte(text(plots[0])), &d); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			alternative := attribute(plots[0], "aria-label")
			plots = plots[1:]
			marks := 0
			for _, e := range r.Timeline {
				if e.Kind != "" {
					marks++
				}
			}
			if len(d.Checks) != len(r.Checks) || len(d.Marks) != marks || len(d.Phases) != len(r.Phases) {
				t.Errorf("%s: %d checks, %d marks, %d phases", name, len(d.Checks), len(d.Marks), len(d.Phases))
			}
			if len(d.Account) != 6 || len(d.Mount) != 5 { // online, (degraded,) suspending, suspended, restoring, online
				t.Errorf("%s: the account has states %v, the mount %v", name, d.Account, d.Mount)
			}
			if points := min(len(r.Samples), report.MaxPoints); len(d.Time) < points*9/10 || len(d.Time) > points {
				t.Errorf("%s: %d points of %d samples", name, len(d.Time), len(r.Samples))
			}
			for _, line := range []struct {
				points []float64
				count  func(report.Sample) int64
			}{
				{d.Reads, func(s report.Sample) int64 { return s.Reads }}, {d.Writes, func(s report.Sample) int64 { return s.Writes }},
				{d.Metadata, func(s report.Sample) int64 { return s.Metadata }}, {d.Errors, func(s report.Sample) int64 { return s.Errors }},
			} {
				var drawn, counted, from float64
				for i, v := range line.points {
					drawn += v * (d.Time[i] - from)
					from = d.Time[i]
				}
				for _, s := range r.Samples {
					counted += float64(line.count(s))
				}
				if drawn < 0.999*counted || drawn > 1.001*counted {
					t.Errorf("%s: a line shows %.0f operations of %.0f", name, drawn, counted)
				}
			}
			if !strings.Contains(alternative, "The account was online from 0 s") || !strings.Contains(alternative, "suspended") {
				t.Errorf("%s: the plot in words is %q", name, alternative)
			}
		}
		if len(plots) != 0 {
			t.Errorf("%s: %d plots more than reports", name, len(plots))
		}
	}
}

// TestUPlot_AsPublished keeps the library as npm has it, with its licence.
func TestUPlot_AsPublished(t *testing.T) {
	for name, want := range map[string]string{
		"uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
		"uPlot.min.css":     "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
		"LICENSE":           "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
	} {
		sum := sha256.Sum256([]byte(report.UPlot[name]))
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%s has the sum %s", name, got)
		}
	}
}

// document is a parsed page.
type document struct {
	all     []*html.Node
	ids     map[string]bool
	policy  string
	scripts []string // that run
}

func parse(t *testing.T, content []byte) *document {
	t.Helper()
	root, err := html.Parse(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	d := &document{ids: map[string]bool{}}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		d.all = append(d.all, n)
		d.ids[attribute(n, "id")] = true
		if attribute(n, "http-equiv") == "Content-Security-Policy" {
			d.policy = attribute(n, "content")
		}
		if n.Data == "script" && attribute(n, "type") == "" {
			d.scripts = append(d.scripts, text(n))
		}
	}
	return d
}

func (d *document) named(name string) []*html.Node {
	return slices.DeleteFunc(slices.Clone(d.all), func(n *html.Node) bool { return n.Data != name })
}

func (d *document) class(name string) []*html.Node {
	return slices.DeleteFunc(slices.Clone(d.all), func(n *html.Node) bool {
		return !slices.Contains(strings.Fields(attribute(n, "class")), name)
	})
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return b.String()
}
