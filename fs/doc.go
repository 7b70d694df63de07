// Package fs is the FUSE side of a volume: it turns the kernel's requests into
// calls on a Volume, mounts and unmounts, lets one worker process take over
// from another without the applications noticing, and ends access to a volume
// so that nothing readable stays in any cache.
//
// Three roles use it. A worker runs a Server: it reads requests from an
// inherited /dev/fuse descriptor and answers them from a Volume. The supervisor
// holds the Device, which outlives every worker, and runs an Answerer while
// there is none, because a descriptor that nobody answers makes processes hang
// unkillably. Both share a NodeTable, in which the worker notes the nodes that
// the kernel knows, so that the supervisor can invalidate them after a crash.
//
// Node ids are inode numbers and opens are stateless: a new worker needs
// nothing from the old one but the volume, the table and the kernel's INIT
// request.
//
// # What callers get
//
//   - Opens cost no message (no-open): OPEN, OPENDIR, CREATE and FLUSH are
//     answered once with ENOSYS, files are created with MKNOD.
//   - The kernel caches entries, attributes and data for a day: a volume has
//     one writer. Everything it holds is given up by Suspend.
//   - flock(2) and fcntl(2) locks are the kernel's own and work between the
//     processes of this host.
//   - sync(2) and syncfs(2) write dirty pages to the volume, but the kernel
//     sends no SYNCFS to this kind of mount: durability then follows with the
//     volume's next group commit. fsync(2) waits for it.
//   - Access times follow what is read from the volume, by the rule of the mount
//     (relatime). What is read from the kernel's page cache is not told to us.
//
// # Locks
//
// In this order, the outer one first: a node stripe (adapter.stripes), then
// any lock of the Volume; the gate's and the server's mutexes are innermost
// and held for a few instructions, never across a call into the volume or the
// kernel. No lock at all is held while a notification is written, since that
// may wait for the replies to requests in flight.
package fs
