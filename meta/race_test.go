//go:build race

package meta_test

// raceDetector: everything takes about ten times as long.
const raceDetector = true
