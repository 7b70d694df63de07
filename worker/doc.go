// Package worker is the process that serves one volume. The supervisor starts
// it with a handful of inherited descriptors, tells it over a control socket
// what to do (protocol.go), and the key agent writes the volume's key straight
// into its key socket. It is the only kind of process that ever has a volume's
// key, its names and its contents, and it can reach nothing but the volume's
// own directory: before it reads the first message it gives up every
// capability (but to lock memory, where that takes one), the network and the rest
// of the file system (confine.go).
//
// What a superblock says about the volume's key is replaced by a worker, too:
// the one that serves the volume or, if none does, one that is started for this
// and has no key at all (reseal.go).
//
// A worker may be killed at any moment. What it had answered is in the
// volume's journal; the next worker takes over the same /dev/fuse descriptor
// and the kernel hands it the requests that were still open.
//
// A worker ends by itself, with the suspending sequence (no request is left
// half done, nothing readable stays in the kernel's caches), as soon as its
// supervisor is gone or its lease has run out.
package worker
