//go:build !race

package race

// Detector says whether the race detector is built in.
const Detector = false
