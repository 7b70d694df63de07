package worker

import (
	"cmkfs/fs"
)

// The descriptors a worker inherits.
const (
	FDControl = 3 // SOCK_SEQPACKET to the supervisor: one JSON message a packet
	FDKey     = 4 // socket the key agent writes the 32-byte volume key to
)

// The exit codes of a worker. Any other way to end is a crash.
const (
	ExitOK      = 0 // what was asked is done: formatted, checked, unmounted, suspended
	ExitFailed  = 3 // refused or failed; a Failed message said why
	ExitOrphan  = 4 // the supervisor was gone or the lease had run out: suspended by itself
	ExitStopped = 5 // the volume stopped after an I/O error; the next worker recovers it
)

// Mode is what a worker is started for.
type Mode string

const (
	ModeServe  Mode = "serve"  // open a volume, then answer the requests of a mount
	ModeFormat Mode = "format" // create a volume in an empty directory
	ModeCheck  Mode = "check"  // look for damage
	ModeReseal Mode = "reseal" // without a key: replace what the superblock says about it
)

// Request is a message from the supervisor to the worker. Exactly one field is
// set.
type Request struct {
	Start   *Start   `json:"start,omitempty"`   // the first message, once
	Serve   *Serve   `json:"serve,omitempty"`   // take a mount over; carries its descriptors
	Lease   *Lease   `json:"lease,omitempty"`   // a new deadline
	Suspend *Suspend `json:"suspend,omitempty"` // drain, commit, invalidate, exit
	Unmount *Unmount `json:"unmount,omitempty"` // the mount is gone: close the volume, exit
	Remount *Remount `json:"remount,omitempty"` // the mount's options are others now
	Forward *Forward `json:"forward,omitempty"` // a FUSE request the supervisor had read
	Stats   *Ask     `json:"stats,omitempty"`   // answer with Stats
	Ping    *Ask     `json:"ping,omitempty"`    // answer with Pong, at once

	Key *KeyRequest `json:"key,omitempty"` // answer with Key
}

// Reply is a message from the worker to the supervisor. Exactly one field is
// set.
type Reply struct {
	Sealed    *Sealed    `json:"sealed,omitempty"`    // which key the volume needs; waiting for it
	Ready     *Ready     `json:"ready,omitempty"`     // the volume is open; waiting for Serve
	Stats     *Stats     `json:"stats,omitempty"`     // the answer to a stats request
	Pong      *Pong      `json:"pong,omitempty"`      // the answer to a ping
	Closed    *Closed    `json:"closed,omitempty"`    // nothing is let through any more
	Suspended *Suspended `json:"suspended,omitempty"` // nothing is left; about to exit
	Failed    *Failed    `json:"failed,omitempty"`    // about to exit with ExitFailed
	Progress  *Progress  `json:"progress,omitempty"`  // of a check
	Finding   *Finding   `json:"finding,omitempty"`   // of a check
	Repaired  *Repaired  `json:"repaired,omitempty"`  // of a check that repairs
	Done      *Done      `json:"done,omitempty"`      // format or check is complete
	Position  *Position  `json:"position,omitempty"`  // how far the volume has got

	Key *KeyAnswer `json:"key,omitempty"` // the answer to a key request
}

// Start says what to do. Lease, Format or Check belongs to the mode.
type Start struct {
	Mode  Mode   `json:"mode"`
	Dir   string `json:"dir"`   // the volume's directory
	Label string `json:"label"` // ACCOUNT/VOLUME, for the log

	Lease  *Lease    `json:"lease,omitempty"`
	Format *Format   `json:"format,omitempty"`
	Check  *Check    `json:"check,omitempty"`
	Newest *Position `json:"newest,omitempty"` // how far the volume had got; behind that it is refused
	// Answered is the last operation that the mount's programs may have been told of:
	// without it, the volume is refused.
	Answered uint64 `json:"answered,omitempty"`
}

// Serve hands a mount over to a worker whose volume is open. Two descriptors
// travel with it: the mount's /dev/fuse description, which is shared with the
// supervisor, and the memfd of its node table. The supervisor has stopped
// reading requests when it sends this.
type Serve struct {
	Mount   fs.MountConfig `json:"mount"`
	Init    []byte         `json:"init"`    // the kernel's INIT request, replayed
	Session uint64         `json:"session"` // random number of the mount, for exactly-once
	Resend  bool           `json:"resend"`  // the kernel can hand out open requests again
	Errno   int            `json:"errno"`   // what requests get that this worker refuses by itself
}

// Format holds what goes into a new volume's superblock.
type Format struct {
	Sealed       Sealed `json:"sealed"`
	JournalBytes int64  `json:"journalBytes,omitempty"` // 0 = the default
}

// Sealed is the volume's key as its superblock holds it. The worker reads the
// superblock, not the supervisor: whatever is wrong with a file on disk, only a
// confined process meets it.
type Sealed struct {
	VolumeID   [16]byte `json:"volumeId"`
	AEKID      string   `json:"aekId"` // which account encryption key it is sealed under
	VEK        []byte   `json:"vek"`
	Commitment []byte   `json:"commitment"`
	Quota      uint64   `json:"quota"` // bytes, 0 = none
}

// Check says how deep a check looks.
type Check struct {
	Scrub  bool `json:"scrub"`            // read and authenticate every block, too
	Repair bool `json:"repair,omitempty"` // first make consistent what can be read
	Excise bool `json:"excise,omitempty"` // and remove what cannot be
}

// Lease moves the moment at which the worker must stop by itself.
type Lease struct {
	Deadline int64 `json:"deadline"` // CLOCK_BOOTTIME nanoseconds
}

// Suspend ends the worker with the suspending sequence.
type Suspend struct {
	Errno    int   `json:"errno"`    // what refused requests get
	Deadline int64 `json:"deadline"` // CLOCK_BOOTTIME nanoseconds; what is not drained by then is refused
	Wait     bool  `json:"wait"`     // requests wait until access is restored
}

// Unmount tells a worker that its mount has ended.
type Unmount struct{}

// Remount tells a worker how its volume is mounted now.
type Remount struct {
	Mount fs.MountConfig `json:"mount"`
}

// Ask asks for an answer.
type Ask struct{}

// Forward carries a FUSE request in parts, in order and with nothing between
// them: a request can be larger than a packet.
type Forward struct {
	Part []byte `json:"part"`
	Last bool   `json:"last"`
}

// Ready reports that the volume is open.
type Ready struct {
	PID int `json:"pid"`
}

// Pong says that the worker is alive. One that is stopped or starved of memory
// does not say it, and is replaced.
type Pong struct{}

// Stats is what status shows of a mounted volume.
type Stats struct {
	QuotaBytes uint64 `json:"quotaBytes"` // 0 = limited by the host only
	UsedBytes  uint64 `json:"usedBytes"`
	FreeBytes  uint64 `json:"freeBytes"`
	Files      uint64 `json:"files"`
	HeapBytes  uint64 `json:"heapBytes"` // memory of the worker's Go heap
	Goroutines int    `json:"goroutines"`
}

// Closed reports that no request reaches the volume any more, whatever the
// kernel and the disk still have to do.
type Closed struct{}

// Suspended counts what the suspending sequence did.
type Suspended struct {
	fs.Drained
}

// Class says what kind of failure a Failed message reports, so that the
// supervisor can tell what trying again can mend.
type Class string

const (
	ClassKey     Class = "key"     // no key arrived, or not this volume's
	ClassLocked  Class = "locked"  // another process has the volume open
	ClassCorrupt Class = "corrupt" // damaged or tampered with
	ClassOlder   Class = "older"   // a copy that is older than the volume was
	ClassLost    Class = "lost"    // the disk lost what the mount's programs had been told of
	ClassVersion Class = "version" // a format this program does not know
	ClassSpace   Class = "space"   // the host file system is full
	ClassOther   Class = "other"
)

// Failed says why a worker gives up.
type Failed struct {
	Class  Class  `json:"class"`
	Reason string `json:"reason"` // one sentence without keys or file names
}

// Progress says how far a check is.
type Progress struct {
	Done  int64 `json:"done"`  // pages scrubbed
	Total int64 `json:"total"` // of so many
}

// Finding is one thing a check found.
type Finding struct {
	Code  int    `json:"code"` // a meta.Code, numbered for ever
	Where string `json:"where"`
	Text  string `json:"text"`
}

// Repaired is one thing a repair did. It may contain names of files, which are
// for who asked only.
type Repaired struct {
	Where string `json:"where"`
	Text  string `json:"text"`
	Lost  bool   `json:"lost"` // something that was written is gone with it
}

// Done ends a format or a check.
type Done struct {
	Findings int `json:"findings"`
}
