// Package supervisor is the daemon: the admin socket, the accounts' leases, the
// mounts, and the processes that serve them.
//
// It holds the /dev/fuse descriptor of every mount and never a key, a file's
// name or its contents. A volume is served by a worker process (package
// worker), which gets its key from the key agent over a socket that the
// supervisor only passes on. One mechanism serves suspending, crashing and
// upgrading: a worker ends, the supervisor answers in its place or requests
// wait in the kernel, a worker starts and takes over.
//
//   - run.go, config.go, stale.go: the daemon's life, and what a killed one left
//   - server.go, metrics.go: the admin socket (its types and client are in
//     supervisor/api) and Prometheus
//   - accounts.go, keys.go, leases.go: accounts, their keys, the lease runners
//   - volumes.go, create.go, mount.go, options.go, check.go: what commands do
//   - rotate.go, reseal.go: rotations and transitions, and one volume of them
//   - mounted.go: the loop of one mounted volume, with takeover.go, suspend.go,
//     unmount.go and ending.go for its parts
//   - spawn.go: starting workers
//   - keeping.go, keeper.go: the second holder of the mounts, and its process
//
// # Who may do what at the same time
//
// Commands about one volume exclude each other (volume.begin): the second one
// is refused as busy, it does not queue. Everything that happens to a mounted
// volume, commands, its worker's death and the lease's end, goes through the
// one goroutine of its loop, so that it needs no lock. Changes of one account's
// record are made under its changes mutex; a record is never modified, only
// replaced.
//
// A rotation or transition goes past the commands: it may take long, and a mount
// at boot must not be refused because of it. It asks the worker that serves the
// volume, or starts one without a key, and whoever wants to start another waits
// (Supervisor.exclusive). The volume's own lock decides in the end.
//
// # Locks
//
// In this order, the outer one first: Supervisor.creating, acct.moving,
// acct.changes (held while the key agent is asked, by commands that make or
// change an account), acct.volumes (held while a volume's record is replaced),
// Supervisor.makingKey (held while the platform key is looked for or made),
// then Supervisor.mu, acct.mu, mounted.mu and workerProcess.mu, which
// are innermost, held for a few instructions and never two at a time.
package supervisor
