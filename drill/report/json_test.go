package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkfs/drill/report"
)

var update = flag.Bool("update", false, "write the golden report anew")

const golden = "testdata/key-disabled.json"

func TestWriteJSON_RoundTrip(t *testing.T) {
	for _, r := range []*report.Report{
		example("key-disabled", time.Minute, 1), failed("key-disabled"), incomplete("token-removed"), flapping("flapping"), {Drill: "bare"},
	} {
		dir := filepath.Join(t.TempDir(), "made", "by it")
		if err := report.WriteJSON(dir, r); err != nil {
			t.Fatal(err)
		}
		first := read(t, filepath.Join(dir, r.Drill+".json"))
		again, err := report.LoadJSON(bytes.NewReader(first))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Samples) > 0 && !reflect.DeepEqual(r, again) {
			t.Errorf("%s came back as another", r.Drill)
		}
		if err := report.WriteJSON(dir, again); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, read(t, filepath.Join(dir, r.Drill+".json"))) {
			t.Errorf("%s: written anew it is another file", r.Drill)
		}
		if bytes.Contains(first, []byte("null")) {
			t.Errorf("%s: null in the file", r.Drill)
		}
	}
}

// TestWriteJSON_Golden keeps what programs read as it is. A change here breaks
// them: add fields, and raise the format if one must change its meaning.
func TestWriteJSON_Golden(t *testing.T) {
	dir := t.TempDir()
	if *update {
		dir = "testdata"
	}
	if err := report.WriteJSON(dir, example("key-disabled", 12*time.Second, 1)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, filepath.Join(dir, "key-disabled.json")), read(t, golden)) {
		t.Errorf("the report differs from %s", golden)
	}
}

func TestReport_FieldNames(t *testing.T) {
	want := strings.Fields(`
		checks checks.at checks.class checks.detail drill duration
		errors errors.call errors.count errors.errno
		expectations expectations.detail expectations.held expectations.text failure format keySource passed
		phases phases.from phases.name phases.to plaintextFound
		samples samples.at samples.errors samples.metadata samples.mount samples.reads samples.state samples.writes
		seed started timeToDetect timeToRecover timeToStop
		timeline timeline.at timeline.kind timeline.source timeline.text title version volume
		writesAcknowledged writesLost`)
	slices.Sort(want)
	dir, names := t.TempDir(), map[string]bool{}
	broken := failed("broken")
	broken.Failure = "why"
	for _, r := range []*report.Report{broken, example("whole", time.Minute, 1)} {
		if err := report.WriteJSON(dir, r); err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(read(t, filepath.Join(dir, r.Drill+".json")), &v); err != nil {
			t.Fatal(err)
		}
		fieldNames(v, "", names)
	}
	if got := slices.Sorted(maps.Keys(names)); !slices.Equal(got, want) {
		t.Errorf("fields are\n%q, want\n%q", got, want)
	}
}

// fieldNames collects the names of all fields below v.
func fieldNames(v any, above string, names map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			fieldNames(x, above, names)
		}
	case map[string]any:
		for name, x := range v {
			names[above+name] = true
			fieldNames(x, above+name+".", names)
		}
	}
}

func TestLoadJSON_Refuses(t *testing.T) {
	for name, content := range map[string]string{
		"nothing":           ``,
		"null":              `null`,
		"a list":            `[]`,
		"no format":         `{"drill":"x"}`,
		"another format":    `{"format":2,"drill":"x"}`,
		"no drill":          `{"format":1}`,
		"a path":            `{"format":1,"drill":"../x"}`,
		"an absolute path":  `{"format":1,"drill":"/x"}`,
		"more after it":     `{"format":1,"drill":"x"} {}`,
		"cut off":           `{"format":1,"drill":"x"`,
		"a negative count":  `{"format":1,"drill":"x","writesLost":-1}`,
		"a negative sample": `{"format":1,"drill":"x","samples":[{"at":1,"reads":-1}]}`,
		"two verdicts":      `{"format":1,"drill":"x","passed":true,"failure":"y"}`,
		"ages":              `{"format":1,"drill":"x","duration":1e300}`,
		"a time in words":   `{"format":1,"drill":"x","duration":"1s"}`,
	} {
		if r, err := report.LoadJSON(strings.NewReader(content)); err == nil {
			t.Errorf("%s was read as %+v", name, r)
		}
	}
	if _, err := report.LoadJSON(strings.NewReader(`{"format":1,"drill":"x","from tomorrow":{}}` + "\n")); err != nil {
		t.Errorf("a field that this program does not know: %v", err)
	}
	if err := report.WriteJSON(t.TempDir(), &report.Report{Drill: "../x"}); err == nil {
		t.Error("a path was taken for the name of a drill")
	}
}

func TestLoadDir_ByTime(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"third", "second", "first"} {
		r := example(name, time.Second, 1)
		r.Started = r.Started.Add(-time.Duration(i) * time.Minute)
		if err := report.WriteJSON(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	all, err := report.LoadDir(dir)
	if err != nil || len(all) != 3 || all[0].Drill != "first" || all[2].Drill != "third" {
		t.Fatalf("read %v, %v", all, err)
	}
	if err := report.WriteHTML(dir, all); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := report.LoadDir(dir); err == nil || !strings.Contains(err.Error(), "x.json") {
		t.Errorf("a file that is no report: %v", err)
	}
}

func TestOffset_String(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0 s": 0, "0.3 ms": 300 * time.Microsecond, "42 ms": 42 * time.Millisecond, "4.80 s": 4800 * time.Millisecond,
		"60.0 s": time.Minute, "2 min 5 s": 125 * time.Second, "1 h 1 min": time.Hour + 61*time.Second, "-1.50 s": -1500 * time.Millisecond,
	} {
		if got := report.Offset(d).String(); got != want {
			t.Errorf("%v prints as %q, want %q", d, got, want)
		}
	}
}

// FuzzLoadJSON: whatever is read as a report can be written, is then read as
// the same, and can be shown.
func FuzzLoadJSON(f *testing.F) {
	b, err := os.ReadFile(golden)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := report.LoadJSON(bytes.NewReader(b))
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := report.WriteJSON(dir, r); err != nil {
			t.Fatal(err)
		}
		again, err := report.LoadJSON(bytes.NewReader(read(t, filepath.Join(dir, r.Drill+".json"))))
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("written and read: %v", err)
		}
		if _, err := report.Render([]*report.Report{r}); err != nil {
			t.Fatal(err)
		}
	})
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
