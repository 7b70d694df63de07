package main_test

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

// freePort takes a port of the loopback address that nobody uses:
// free-port NAME.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// metrics wants a line that fits among the daemon's metrics:
// metrics PORT PATTERN.
func metrics(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Get("http://127.0.0.1:" + args[0] + "/metrics")
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if regexp.MustCompile("(?m)^"+args[1]).Match(b) == neg {
		ts.Fatalf("%s (negated: %v) in\n%s", args[1], neg, b)
	}
}
