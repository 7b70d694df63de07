package report

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Offset is a time since the start of a drill; JSON has it in seconds.
type Offset time.Duration

// maxOffset bounds what a file may claim: a year, which keeps a nanosecond
// exact in the seconds of JSON.
const maxOffset = 365 * 24 * time.Hour

// MarshalJSON implements json.Marshaler.
func (o Offset) MarshalJSON() ([]byte, error) {
	return json.Marshal(o.Seconds())
}

// UnmarshalJSON implements json.Unmarshaler. It refuses more than a year.
func (o *Offset) UnmarshalJSON(b []byte) error {
	var seconds float64
	if err := json.Unmarshal(b, &seconds); err != nil {
		return fmt.Errorf("offset: %w", err)
	}
	if math.Abs(seconds) > maxOffset.Seconds() {
		return fmt.Errorf("offset: %g s is more than a year", seconds)
	}
	*o = Offset(math.Round(seconds * float64(time.Second)))
	return nil
}

// Seconds returns the offset in seconds.
func (o Offset) Seconds() float64 { return time.Duration(o).Seconds() }

// String is for people: three digits or so, with a unit.
func (o Offset) String() string {
	switch d, s := time.Duration(o).Abs(), o.Seconds(); {
	case d == 0:
		return "0 s"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(s*1e3, 'f', 1, 64) + " ms"
	case d < time.Second:
		return strconv.FormatFloat(s*1e3, 'f', 0, 64) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(s, 'f', 2, 64) + " s"
	case d < 100*time.Second:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(s)/60) + " min " + strconv.Itoa(int(d.Seconds())%60) + " s"
	default:
		return strconv.Itoa(int(s)/3600) + " h " + strconv.Itoa(int(d.Minutes())%60) + " min"
	}
}

// show prints a time that a drill may not have.
func show(o *Offset) string {
	if o == nil {
		return "–"
	}
	return o.String()
}
