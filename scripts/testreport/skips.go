package main

import "strings"

// expectedSkips names the tests that may be skipped, each with the reason.
// Everything else that is skipped hides something and fails the run.
var expectedSkips = []struct{ pkg, test, reason string }{}

// expectedSkip returns the reason why a test may be skipped.
func expectedSkip(pkg, test string) (string, bool) {
	for _, s := range expectedSkips {
		if s.pkg == pkg && (s.test == test || strings.HasPrefix(test, s.test+"/")) {
			return s.reason, true
		}
	}
	return "", false
}
