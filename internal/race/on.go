//go:build race

package race

// Detector says whether the race detector is built in. Everything takes about
// ten times as long with it, and some five times the memory.
const Detector = true
