package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"

	"github.com/dustin/go-humanize"
)

// HTMLName is the name of the page that WriteHTML writes.
const HTMLName = "report.html"

// The plot is drawn by uPlot 1.6.32 (npm, MIT), as published; see uplot/LICENSE.
var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed plot.js
	plotJS string
	//go:embed uplot/uPlot.iife.min.js
	uplotJS string
	//go:embed uplot/uPlot.min.css
	uplotCSS string
	//go:embed uplot/LICENSE
	uplotLicense string
)

var page = template.Must(template.New("page").Funcs(template.FuncMap{"comma": humanize.Comma}).Parse(pageHTML))

// WriteHTML writes one page about one or many drills into dir, which it makes
// if need be, as report.html. The page needs no other file and no network, and
// its own policy forbids it to ask for any. A file of that name is replaced in
// one step.
func WriteHTML(dir string, reports []*Report) error {
	b, err := render(reports)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return writeFile(dir, HTMLName, b)
}

func render(reports []*Report) ([]byte, error) {
	p := newPageView(reports)
	p.CSS = template.CSS(uplotCSS + pageCSS)
	p.Scripts = []template.JS{template.JS("/*\n" + uplotLicense + "*/\n" + uplotJS), template.JS(plotJS)}
	p.Policy = "default-src 'none'; style-src 'unsafe-inline'; script-src"
	for _, s := range p.Scripts {
		sum := sha256.Sum256([]byte(s))
		p.Policy += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	var b bytes.Buffer
	err := page.Execute(&b, p)
	return b.Bytes(), err
}
