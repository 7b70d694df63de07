package fs_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"cmkfs/fs"
)

// Whatever the kernel sends, what the reading loop looks at lies within the
// message, and what may wait is what is waited for.
func FuzzMessage(f *testing.F) {
	f.Fuzz(func(t *testing.T, opcode uint32, body []byte) {
		m := append(fs.Request(opcode, 7, 1), body...)
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		seen := fs.Examine(m)
		if !seen.Valid || fs.Examine(m[:len(m)-1]).Valid {
			t.Error("the length of a message is not minded")
		}
		if seen.MayWait && !seen.WantsReply {
			t.Error("a request waits that nobody waits for")
		}
		if n := len(fs.Forgets(m)); n > 1+len(body)/16 {
			t.Errorf("%d nodes in %d bytes", n, len(body))
		}
		if seen.Filled && !seen.Pages {
			t.Error("pages are filled that are not touched")
		}
		for state := range 3 {
			if through := fs.LetThrough(state, m); state == 0 && !through || state == 2 && through && seen.WantsReply {
				t.Errorf("gate in state %d: let through %v", state, through)
			}
		}
	})
}

// A line of mountinfo that is understood names a mount point without escapes
// left that the kernel writes.
func FuzzParseMount(f *testing.F) {
	f.Fuzz(func(t *testing.T, line string) {
		m, ok := fs.ParseMount(line)
		if !ok {
			return
		}
		if m.Point == "" || m.FSType == "" || strings.ContainsAny(m.FSType, " \t\n") {
			t.Errorf("%q is a mount of %q at %q", line, m.FSType, m.Point)
		}
		if strings.Count(m.Point, `\`) > strings.Count(line, `\`) {
			t.Errorf("%q gave %q", line, m.Point)
		}
	})
}
