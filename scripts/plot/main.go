// Plot draws columns of a table as lines, for the documents.
//
// Usage: go run ./scripts/plot -x COLUMN -y COLUMN[,COLUMN…] [-by COLUMN] [-scale F]
//
//	[-log] [-title T] [-xname N] [-yname N] TABLE.csv PICTURE.svg
//
// With -by there is a line for each value of that column, with -log both axes are
// logarithmic. Values are multiplied by -scale. Rows without a number are left out.
package main

import (
	"encoding/csv"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	chart "github.com/wcharczuk/go-chart/v2"
)

type options struct {
	x, y, by            string
	scale               float64
	log                 bool
	title, xName, yName string
}

func main() {
	var o options
	flag.StringVar(&o.x, "x", "", "column of the horizontal axis")
	flag.StringVar(&o.y, "y", "", "columns to draw")
	flag.StringVar(&o.by, "by", "", "a line for each value of this column")
	flag.Float64Var(&o.scale, "scale", 1, "factor of the values")
	flag.BoolVar(&o.log, "log", false, "logarithmic axes")
	flag.StringVar(&o.title, "title", "", "headline")
	flag.StringVar(&o.xName, "xname", "", "name of the horizontal axis")
	flag.StringVar(&o.yName, "yname", "", "name of the vertical axis")
	flag.Parse()
	if flag.NArg() != 2 || o.x == "" || o.y == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := draw(o, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func draw(o options, table, picture string) error {
	in, err := os.Open(table)
	if err != nil {
		return err
	}
	defer in.Close()
	rows, err := csv.NewReader(in).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", table, err)
	}
	lines, err := o.lines(rows)
	if err != nil {
		return fmt.Errorf("%s: %w", table, err)
	}
	number := func(v any) string { return strconv.FormatFloat(v.(float64), 'g', 6, 64) }
	c := chart.Chart{
		Title: o.title, Width: 900, Height: 420,
		Background: chart.Style{Padding: chart.Box{Top: 50, Left: 130, Right: 20, Bottom: 20}},
		XAxis:      chart.XAxis{Name: o.xName, ValueFormatter: number},
		YAxis:      chart.YAxis{Name: o.yName, ValueFormatter: number},
		Series:     lines,
	}
	if o.log {
		c.XAxis.Range, c.YAxis.Range = &chart.LogarithmicRange{}, &chart.LogarithmicRange{}
	} else {
		c.YAxis.Range = &chart.ContinuousRange{Min: 0, Max: o.highest(lines)}
	}
	c.Elements = []chart.Renderable{chart.LegendLeft(&c)}
	out, err := os.Create(picture)
	if err != nil {
		return err
	}
	if err := c.Render(chart.SVG, out); err != nil {
		out.Close()
		return fmt.Errorf("%s: %w", picture, err)
	}
	return out.Close()
}

// lines takes the lines to draw out of a table.
func (o options) lines(rows [][]string) (lines []chart.Series, err error) {
	if len(rows) < 2 {
		return nil, fmt.Errorf("no rows")
	}
	column := func(name string) int {
		i := slices.Index(rows[0], name)
		if i < 0 {
			err = fmt.Errorf("no column %q", name)
		}
		return i
	}
	x, by := column(o.x), -1
	if o.by != "" {
		by = column(o.by)
	}
	for name := range strings.SplitSeq(o.y, ",") {
		y := column(name)
		if err != nil {
			return nil, err
		}
		found := map[string]*chart.ContinuousSeries{}
		for _, row := range rows[1:] {
			of := name
			if by >= 0 {
				of = row[by]
			}
			at, errX := strconv.ParseFloat(row[x], 64)
			value, errY := strconv.ParseFloat(row[y], 64)
			if errX != nil || errY != nil {
				continue
			}
			s := found[of]
			if s == nil {
				s = &chart.ContinuousSeries{Name: of, Style: chart.Style{StrokeWidth: 2}}
				found[of] = s
				lines = append(lines, s)
			}
			s.XValues, s.YValues = append(s.XValues, at), append(s.YValues, value*o.scale)
		}
	}
	return lines, nil
}

// highest is where the vertical axis ends.
func (o options) highest(lines []chart.Series) float64 {
	most := 0.0
	for _, l := range lines {
		most = max(most, slices.Max(l.(*chart.ContinuousSeries).YValues))
	}
	return most * 1.1
}
