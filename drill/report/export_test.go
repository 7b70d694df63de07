package report

import "io"

// NewLiveOnTerminal returns a Live that takes out for a terminal of a size.
func NewLiveOnTerminal(out io.Writer, width, height int) *Live {
	l := NewLive(out)
	l.coloured, l.size = true, func() (int, int) { return width, height }
	return l
}

// Render returns the page that WriteHTML writes.
func Render(reports []*Report) ([]byte, error) { return render(reports) }

// UPlot is the plotting library as it is embedded.
var UPlot = map[string]string{"uPlot.iife.min.js": uplotJS, "uPlot.min.css": uplotCSS, "LICENSE": uplotLicense}

// MaxPoints bounds the points of a line.
const MaxPoints = maxPoints
