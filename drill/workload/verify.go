package workload

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Verdict is what a ledger and the volume together say.
type Verdict struct {
	Acknowledged int64    `json:"acknowledged"`    // writes and changes that were answered
	Places       int      `json:"places"`          // that were looked at
	Lost         int64    `json:"lost"`            // places with something else than was answered
	Wrong        []string `json:"wrong,omitempty"` // what was lost, the first ones
}

// mostWrong is how many sentences a verdict has.
const mostWrong = 20

func (v *Verdict) lose(text string) {
	v.Lost++
	if len(v.Wrong) < mostWrong {
		v.Wrong = append(v.Wrong, text)
	}
}

// verify looks at everything that a process's ledger knows. What cannot be read
// counts as lost.
func verify(j Job) Verdict {
	var v Verdict
	l, err := replay(j.Ledger)
	if err != nil {
		v.lose("the ledger cannot be read: " + err.Error())
		return v
	}
	v.Acknowledged = l.acks
	for _, w := range l.wrong {
		v.lose("while it worked: " + w)
	}
	files := map[string]*os.File{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, place := range l.order {
		v.Places++
		if problem := l.lookAt(j, place, files); problem != "" {
			v.lose(problem)
		}
	}
	return v
}

// lookAt compares one place on the volume with the ledger.
func (l *ledger) lookAt(j Job, place string, files map[string]*os.File) string {
	name, part, isFile := strings.Cut(place, "#")
	path := filepath.Join(j.Dir, name)
	if !isFile {
		seed, kind := j.Seed, "name"
		if strings.HasPrefix(name, "r") {
			kind = name
		}
		v, err := nameValueOf(seed, kind, path)
		if err != nil {
			return fmt.Sprintf("%s: %v", place, err)
		}
		if c := l.at(place); !c.allows(place, v) {
			return fmt.Sprintf("%s is %d, allowed is %v", place, v, c.allowed())
		}
		return ""
	}
	f := files[name]
	if f == nil {
		var err error
		f, err = os.Open(path)
		if errors.Is(err, os.ErrNotExist) && slices.Contains(l.at(place).allowed(), 0) {
			return ""
		}
		if err != nil {
			return fmt.Sprintf("%s: %v", place, err)
		}
		files[name] = f
	}
	if part == "size" {
		return l.lookAtText(j.Seed, name, place, f)
	}
	var n int64
	if _, err := fmt.Sscan(part, &n); err != nil {
		return fmt.Sprintf("%s is no place", place)
	}
	b := make([]byte, blockSize)
	if got, err := f.ReadAt(b, n*blockSize); err != nil && (err != io.EOF || got%blockSize != 0) {
		return fmt.Sprintf("%s: %v", place, err)
	}
	return l.look(j.Seed, place, b)
}

// lookAtText compares an appended file.
func (l *ledger) lookAtText(seed uint64, name, place string, f *os.File) string {
	b, err := io.ReadAll(f)
	if err != nil {
		return fmt.Sprintf("%s: %v", place, err)
	}
	if c := l.at(place); !c.allows(place, uint64(len(b))) {
		return fmt.Sprintf("%s has %d bytes, allowed is %v", name, len(b), c.allowed())
	}
	if string(b) != string(text(seed, name, 0, int64(len(b)))) {
		return name + " has data that was never appended"
	}
	return ""
}
