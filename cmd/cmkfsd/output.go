package main

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// printJSON prints v, indented.
func (s *session) printJSON(v any) error {
	e := json.NewEncoder(s.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printTable prints rows under a header. Tables are for people: their columns
// may change, -o json does not.
func (s *session) printTable(header []string, rows [][]string) {
	t := table.NewWriter()
	t.SetOutputMirror(s.out)
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatUpper
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	t.SetStyle(style)
	if header != nil {
		t.AppendHeader(tableRow(header))
	}
	for _, r := range rows {
		t.AppendRow(tableRow(r))
	}
	t.SuppressTrailingSpaces()
	t.Render()
}

func tableRow(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		r[i] = c
	}
	return r
}

// printFields prints name and value pairs; an empty value leaves its line out.
func (s *session) printFields(pairs ...string) {
	var rows [][]string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			rows = append(rows, []string{pairs[i], pairs[i+1]})
		}
	}
	s.printTable(nil, rows)
}

func showTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

func showBytes(n uint64) string { return humanize.IBytes(n) }

// showQuota prints a quota, of which 0 means none.
func showQuota(n uint64) string {
	if n == 0 {
		return "none"
	}
	return showBytes(n)
}

func showTags(tags map[string]string) string {
	var all []string
	for k, v := range tags {
		all = append(all, k+"="+v)
	}
	return strings.Join(all, " ")
}

// size is a number of bytes on the command line: 100GiB, 2T, 4096.
type size uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *size) UnmarshalText(b []byte) error {
	v, err := humanize.ParseBytes(string(b))
	if err != nil || v == 0 {
		return &usageError{message: "\"" + string(b) + "\" is not a size: write 100GiB, 2TB or a number of bytes"}
	}
	*n = size(v)
	return nil
}
