// Package race tells tests about Go's race detector (go test -race).
package race

import "bytes"

// header begins every report of the race detector.
var header = []byte("WARNING: DATA RACE")

// Report returns what a log has from the first report of a data race on, nil if
// there is none. A process under test that has a race reports it and goes on, or
// is replaced if it ends: its log is the only place where that shows.
func Report(log []byte) []byte {
	if i := bytes.Index(log, header); i >= 0 {
		return log[i:]
	}
	return nil
}
