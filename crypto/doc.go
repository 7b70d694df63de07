// Package crypto holds every cryptographic construction of cmkfs as pure
// functions on bytes: no files, contexts, logs, clocks or goroutines.
//
// docs/format.md justifies each construction. Keys never print: their String,
// GoString, Format and MarshalText forms are "[redacted]".
package crypto
