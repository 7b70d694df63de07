// Package workload is what works on a volume while a drill takes its key away:
// processes of their own that write, append, map, rename and read, all of it
// data that can be checked byte for byte, each with a ledger outside the volume
// that says what it asked for and what was answered.
//
// A process that hangs on a mount takes nobody with it: the drill talks to it
// over pipes (Crew), and what must be on the volume afterwards is looked at by
// another process, which needs only the ledgers (Verify).
//
// Everything follows from a seed: which operation comes next, and what a block
// of a file has in which generation.
package workload
