package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/google/renameio/v2"
)

// jsonFormat is the version of the JSON. Fields may be added without a new
// one; it is raised if one changes its meaning.
const jsonFormat = 1

// maxJSON bounds what is read as a report, in bytes. A drill of a day with ten
// samples a second has about 100 MiB.
const maxJSON = 256 << 20

// drillName is what a drill is called; its files are named after it.
var drillName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,99}$`)

// document is a report as a file has it.
type document struct {
	Format int `json:"format"`
	*Report
}

// WriteJSON writes r into dir, which it makes if need be, as DRILL.json. A
// file of that name is replaced in one step.
func WriteJSON(dir string, r *Report) error {
	if err := r.validate(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	b, err := json.MarshalIndent(document{jsonFormat, r.withoutNil()}, "", " ")
	if err != nil {
		return fmt.Errorf("write report of %s: %w", r.Drill, err)
	}
	return writeFile(dir, r.Drill+".json", append(b, '\n'))
}

// LoadJSON reads what WriteJSON has written, with fields it does not know left
// out. It refuses other versions of the format, and anything after the report.
func LoadJSON(from io.Reader) (*Report, error) {
	dec := json.NewDecoder(io.LimitReader(from, maxJSON))
	var d document
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	if d.Format != jsonFormat {
		return nil, fmt.Errorf("read report: format %d, this program knows %d", d.Format, jsonFormat)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read report: there is something after it")
	}
	if d.Report == nil {
		return nil, errors.New("read report: it has no drill")
	}
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	return d.withoutNil(), nil
}

// LoadDir reads every report in dir, in the order in which the drills started.
func LoadDir(dir string) ([]*Report, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []*Report
	for _, name := range names {
		r, err := loadFile(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b *Report) int { return a.Started.Compare(b.Started) })
	return all, nil
}

func loadFile(name string) (*Report, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return LoadJSON(f)
}

// validate refuses what cannot be a report.
func (r *Report) validate() error {
	switch {
	case !drillName.MatchString(r.Drill):
		return fmt.Errorf("%q is not the name of a drill", r.Drill)
	case r.Duration < 0:
		return fmt.Errorf("%s: negative duration", r.Drill)
	case r.Acknowledged < 0 || r.Lost < 0 || r.Plaintext < 0:
		return fmt.Errorf("%s: negative count", r.Drill)
	case r.Passed && r.Failure != "":
		return fmt.Errorf("%s: passed and failed at once", r.Drill)
	}
	for _, s := range r.Samples {
		if s.Reads < 0 || s.Writes < 0 || s.Metadata < 0 || s.Errors < 0 {
			return fmt.Errorf("%s: negative count in the sample at %v", r.Drill, s.At)
		}
	}
	return nil
}

// withoutNil returns a copy whose lists are empty instead of nil, since JSON
// tells them apart and its readers should not have to.
func (r *Report) withoutNil() *Report {
	c := *r
	c.Phases, c.Timeline, c.Samples = some(c.Phases), some(c.Timeline), some(c.Samples)
	c.Checks, c.Errors, c.Expectations = some(c.Checks), some(c.Errors), some(c.Expectations)
	return &c
}

func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// writeFile replaces a file of dir, which it makes if need be.
func writeFile(dir, name string, content []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, name), content, 0o644, renameio.WithTempDir(dir))
}
