package meta_test

import (
	"sync/atomic"
	"time"
)

// moment is a time as the model has it, in nanoseconds since 1970. Those that
// utimes sets are whole seconds. What a volume's clock says is known only where
// an operation has the clock to itself: the tests then set it to the number of
// the operation. Every other reading of a clock is 0.
type moment int64

// known is the second in which clocks are set to operations' numbers.
const known = 1_700_000_000

// at is the moment of operation i, or of any if i is 0.
func at(i int) moment {
	if i == 0 {
		return 0
	}
	return moment(known*time.Second) + moment(i)
}

func momentOf(t time.Time) moment {
	if t.Nanosecond() != 0 && t.Unix() != known {
		return 0
	}
	return moment(t.UnixNano())
}

// opClock is a clock that stands at an operation's number until it is set.
type opClock struct{ op atomic.Int64 }

func (c *opClock) set(i int)      { c.op.Store(int64(i)) }
func (c *opClock) now() time.Time { return time.Unix(known, c.op.Load()) }

// anyClock counts nanoseconds, one per look, from a moment that is not known.
func anyClock() func() time.Time {
	var n atomic.Int64
	return func() time.Time { return time.Unix(known+1000, n.Add(1)) }
}
