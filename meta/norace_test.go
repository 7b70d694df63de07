//go:build !race

package meta_test

const raceDetector = false
