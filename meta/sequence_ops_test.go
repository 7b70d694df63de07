package meta_test

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"cmkfs/meta"
)

// The tree that every sequence starts from. Numbers are given in the order of
// making, so that sequences can name inodes.
const (
	seqA     = meta.RootIno + 1 // directory A
	seqB     = meta.RootIno + 2 // directory B
	seqFoo   = meta.RootIno + 3 // A/foo: small, with attributes
	seqBar   = meta.RootIno + 4 // A/bar: in segments
	seqBaz   = meta.RootIno + 5 // B/baz: in segments, and B/hard
	seqSub   = meta.RootIno + 6 // A/sub: empty directory
	seqEmpty = meta.RootIno + 7 // B/empty: empty directory
)

func seqTree() []op {
	return []op{
		{kind: "mkdir", ino: meta.RootIno, name: "A", mode: 0o755},
		{kind: "mkdir", ino: meta.RootIno, name: "B", mode: 0o755},
		{kind: "mknod", ino: seqA, name: "foo", mode: unix.S_IFREG | 0o644},
		{kind: "mknod", ino: seqA, name: "bar", mode: unix.S_IFREG | 0o644},
		{kind: "mknod", ino: seqB, name: "baz", mode: unix.S_IFREG | 0o644},
		{kind: "mkdir", ino: seqA, name: "sub", mode: 0o755},
		{kind: "mkdir", ino: seqB, name: "empty", mode: 0o755},
		{kind: "link", ino: seqBaz, ino2: seqB, name2: "hard"},
		{kind: "write", ino: seqFoo, length: 2000, seed: 1},
		{kind: "write", ino: seqBar, length: 40_000, seed: 2},
		{kind: "write", ino: seqBaz, length: 20_000, seed: 3},
		{kind: "setxattr", ino: seqFoo, name: "user.a", value: "old"},
	}
}

// seqACL names a user, so that it is more than a mode says.
var seqACL = string(meta.MakeACL([3]uint32{0x01, 7}, [3]uint32{0x02, 6, 1000}, [3]uint32{0x04, 5}, [3]uint32{0x10, 6}, [3]uint32{0x20, 4}))

// seqOps are the operations that sequences are made of: everything that has to
// do with persistence, each in the forms that take another way through the
// engine. The last ones are no requests, but what the daemon does by itself or
// has done to it.
var seqOps = func() []op {
	const keep, punch, zero = meta.FallocKeepSize, meta.FallocPunchHole | meta.FallocKeepSize, meta.FallocZeroRange
	write := func(ino uint64, off, length int64) op { return op{kind: "write", ino: ino, off: off, length: length} }
	truncate := func(ino uint64, size int64) op { return op{kind: "truncate", ino: ino, off: size} }
	fallocate := func(ino uint64, mode uint32, off, length int64) op {
		return op{kind: "fallocate", ino: ino, mode: mode, off: off, length: length}
	}
	rename := func(from uint64, name string, to uint64, name2 string, mode uint32) op {
		return op{kind: "rename", ino: from, name: name, ino2: to, name2: name2, mode: mode}
	}
	clone := func(from uint64, off int64, to uint64, off2, length int64) op {
		return op{kind: "copy", ino: from, off: off, ino2: to, off2: off2, length: length}
	}
	all := []op{
		{kind: "mknod", ino: seqA, name: "new", mode: unix.S_IFREG | 0o600},
		{kind: "mknod", ino: seqB, name: "new", mode: unix.S_IFREG | 0o600},
		{kind: "mkdir", ino: seqA, name: "new", mode: 0o700},
		{kind: "symlink", ino: seqA, name: "link", value: "foo"},
		{kind: "symlink", ino: seqB, name: "link", value: strings.Repeat("x", 3000)},
		{kind: "tmpfile", ino: seqA, mode: 0o600},
		{kind: "link", ino: seqFoo, ino2: seqB, name2: "foo"},
		{kind: "link", ino: seqBar, ino2: seqA, name2: "bar2"},
		write(seqFoo, 2000, 100), write(seqFoo, 0, 10), write(seqFoo, 0, 50_000), write(seqFoo, 200_000, 300),
		write(seqBar, 8192, 4096), write(seqBar, 4000, 5000), write(seqBar, 40_000, 20_000), write(seqBar, 39_999, 1), write(seqBar, 0, 140_000),
		write(seqBaz, 0, 20_000),
		truncate(seqFoo, 0), truncate(seqFoo, 100), truncate(seqFoo, 10_000),
		truncate(seqBar, 0), truncate(seqBar, 5000), truncate(seqBar, 8192), truncate(seqBar, 100_000),
		fallocate(seqFoo, 0, 0, 9000), fallocate(seqFoo, keep, 0, 100_000), fallocate(seqFoo, punch, 0, 1000),
		fallocate(seqBar, 0, 30_000, 30_000), fallocate(seqBar, punch, 8192, 8192), fallocate(seqBar, punch, 5000, 20_000),
		fallocate(seqBar, zero, 3000, 10_000), fallocate(seqBar, zero|keep, 36_864, 20_000),
		rename(seqA, "foo", seqA, "bar", 0), rename(seqA, "bar", seqA, "foo", 0), rename(seqA, "foo", seqB, "baz", 0),
		rename(seqB, "hard", seqA, "foo", 0), rename(seqA, "foo", seqA, "other", 0), rename(seqA, "bar", seqB, "other", 0),
		rename(seqA, "sub", seqB, "sub", 0), rename(seqA, "sub", seqB, "empty", 0), rename(meta.RootIno, "A", seqEmpty, "A", 0),
		rename(seqA, "foo", seqA, "bar", meta.RenameExchange), rename(seqA, "foo", seqB, "baz", meta.RenameExchange),
		rename(seqA, "sub", seqB, "empty", meta.RenameExchange), rename(seqA, "bar", seqB, "empty", meta.RenameExchange),
		rename(seqA, "foo", seqA, "noreplace", meta.RenameNoReplace), rename(seqA, "foo", seqA, "bar", meta.RenameNoReplace),
		rename(seqB, "baz", seqB, "hard", meta.RenameExchange), rename(seqA, "foo", seqB, "other", meta.RenameWhiteout),
		{kind: "unlink", ino: seqA, name: "foo"}, {kind: "unlink", ino: seqA, name: "bar"},
		{kind: "unlink", ino: seqB, name: "baz"}, {kind: "unlink", ino: seqB, name: "hard"},
		{kind: "rmdir", ino: seqA, name: "sub"}, {kind: "rmdir", ino: seqB, name: "empty"},
		{kind: "setxattr", ino: seqFoo, name: "user.a", value: "new"}, {kind: "setxattr", ino: seqFoo, name: "user.b", value: "b"},
		{kind: "setxattr", ino: seqBar, name: "user.large", value: strings.Repeat("v", 5000)}, {kind: "setxattr", ino: seqA, name: "user.a", value: "dir"},
		{kind: "removexattr", ino: seqFoo, name: "user.a"},
		{kind: "setxattr", ino: seqFoo, name: meta.XattrACLAccess, value: seqACL}, {kind: "setxattr", ino: seqA, name: meta.XattrACLDefault, value: seqACL},
		clone(seqBar, 0, seqFoo, 0, 16_384), clone(seqBar, 8192, seqBaz, 4096, 8192), clone(seqBaz, 100, seqBar, 50_000, 10_000), clone(seqBar, 0, seqBar, 65_536, 32_768),
		{kind: "chmod", ino: seqFoo, mode: 0o4711}, {kind: "chmod", ino: seqA, mode: 0o1777},
		{kind: "chown", ino: seqBar, uid: 7, gid: 8}, {kind: "utimes", ino: seqFoo, off: 1_000_000}, {kind: "utimes", ino: seqA, off: 2_000_000},
		{kind: "sync", ino: seqFoo}, // who flushes foo has large writes to it go to the journal
		{kind: "forget"}, {kind: "checkpoint"}, {kind: "reclaim"}, {kind: "close"}, {kind: "kill"}, {kind: "kills"},
	}
	for i := range all {
		all[i].seed = uint64(100 + i)
	}
	return all
}()

// possible reports whether the kernel could send an operation: what it names
// by number is there.
func (o op) possible(m *model) bool {
	for _, ino := range []uint64{o.ino, o.ino2} {
		if ino != 0 && o.kind != "sync" && m.nodes[ino] == nil {
			return false
		}
	}
	return o.kind != "link" || m.nodes[o.ino].nlink > 0
}

// next is the volume in the next process.
func (h *history) next(m *model) (*meta.Volume, error) {
	v, err := meta.Open(context.Background(), h.cfg)
	if err != nil {
		return nil, err
	}
	h.bug.opened(v)
	return v, reclaim(v, m)
}

// sequenceStep does one operation of a sequence and tells what its end promises.
func (h *history) sequenceStep(v *meta.Volume, m *model, i int, o op) (*meta.Volume, *model, error) {
	s := step{op: o, start: h.rec.Len()}
	next := m
	var err error
	switch o.kind {
	case "forget":
		for _, ino := range m.orphans() {
			err = v.Forget(ino)
			next, _ = op{kind: "forget", ino: ino}.apply(next)
		}
	case "checkpoint":
		err = v.Checkpoint()
		s.durable = true
	case "reclaim":
		h.bug.reclaim(v)
	case "close":
		err = v.Close(context.Background())
		s.durable, s.end = true, h.rec.Len()
		if err == nil {
			v, err = h.next(m)
		}
	case "kill", "kills":
		// Each process begins a journal file: with five, all have been begun.
		for n := map[string]int{"kill": 1, "kills": 5}[o.kind]; n > 0 && err == nil; n-- {
			if err = v.Abandon(); err == nil {
				v, err = h.next(m)
			}
		}
	default:
		if !o.possible(m) {
			break
		}
		got := o.run(v, caller(i))
		if o.kind == "copy" && got.err == nil {
			o.length = min(o.length, int64(got.value)) // copying less is fine
		}
		var want outcome
		if next, want = o.apply(m); !sameOutcome(o, got, want) {
			err = fmt.Errorf("answered %v, want %v", got, want)
		}
		s.note(m.dump(), next.dump())
	}
	if s.end == 0 {
		s.end = h.rec.Len()
	}
	h.steps, h.models, h.dumps = append(h.steps, s), append(h.models, next), append(h.dumps, next.dump())
	return v, next, err
}
