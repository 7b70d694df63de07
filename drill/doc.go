// Package drill rehearses outages of a key. A drill makes a volume busy, takes
// its key away in one of some forty ways, watches from outside what programs
// see, gives the key back, and compares everything with what was promised.
//
//   - drill.go: what a drill is; catalogue.go lists all, in network.go,
//     vault.go, token.go, process.go and disk.go by theme
//   - rig.go, daemon.go, softhsm.go, proxy.go: the place a drill makes for
//     itself; adopt.go, guard.go: a user's own volume
//     instead
//   - run.go, outage.go, ending.go: a drill from its first sample to its verdict;
//     watch.go, search.go: what is seen meanwhile; judge.go: what follows from it
//   - isolate.go: namespaces in which nothing of a drill can be left behind
//
// The processes that touch the volume are in drill/workload and drill/probe,
// what people look at is made by drill/report.
package drill
