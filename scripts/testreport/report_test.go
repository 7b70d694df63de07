package main

import (
	"strings"
	"testing"
	"time"
)

// A run's events, and what the report must make of them.
var streams = []struct {
	name   string
	events string
	ok     bool
	last   string // the closing line
	says   string // somewhere in the report
}{
	{"passes", `
		{"Action":"run","Package":"p","Test":"TestA"}
		{"Action":"pass","Package":"p","Test":"TestA"}
		{"Action":"pass","Package":"p"}`,
		true, "1 passed, 0 failed, 0 skipped", "ok   p"},
	{"fails with its output", `
		{"Action":"run","Package":"p","Test":"TestA"}
		{"Action":"output","Package":"p","Test":"TestA","Output":"went wrong\n"}
		{"Action":"fail","Package":"p","Test":"TestA"}
		{"Action":"fail","Package":"p"}`,
		false, "0 passed, 1 failed, 0 skipped", "went wrong"},
	{"skips", `
		{"Action":"pass","Package":"p","Test":"TestA"}
		{"Action":"output","Package":"p","Test":"TestB","Output":"no tool\n"}
		{"Action":"skip","Package":"p","Test":"TestB"}
		{"Action":"pass","Package":"p"}`,
		false, "1 passed, 0 failed, 1 skipped", "p TestB was skipped"},
	{"passes, but a process it started does not", `
		{"Action":"run","Package":"p","Test":"TestA"}
		{"Action":"output","Package":"p","Test":"TestA","Output":"WARNING: DATA RACE\n"}
		{"Action":"output","Package":"p","Test":"TestA","Output":"Write at 0x1\n"}
		{"Action":"pass","Package":"p","Test":"TestA"}
		{"Action":"pass","Package":"p"}`,
		false, "1 passed, 0 failed, 0 skipped", "Write at 0x1"},
	{"ends without a verdict", `
		{"Action":"run","Package":"p","Test":"TestA"}
		{"Action":"output","Package":"p","Test":"TestA","Output":"panic: oh\n"}
		{"Action":"fail","Package":"p"}`,
		false, "0 passed, 1 failed, 0 skipped", "panic: oh"},
	{"does not build", `
		{"ImportPath":"p [p.test]","Action":"build-output","Output":"undefined: x\n"}
		{"ImportPath":"p [p.test]","Action":"build-fail"}
		{"Action":"start","Package":"p"}
		{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
		false, "0 passed, 1 failed, 0 skipped", "undefined: x"},
	{"has no test", `
		{"Action":"skip","Package":"p"}`,
		false, "0 passed, 0 failed, 0 skipped", "no test ran"},
}

func TestReport(t *testing.T) {
	for _, s := range streams {
		t.Run(s.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(strings.TrimSpace(s.events))); err != nil {
				t.Fatal(err)
			}
			ok := r.finish(time.Second)
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := lines[len(lines)-1]; ok != s.ok || last != s.last || !strings.Contains(out.String(), s.says) {
				t.Errorf("ok %v, want %v; report:\n%s", ok, s.ok, out.String())
			}
		})
	}
}
